"""TOML tables into frozen dataclasses, every error of a file at once.

A configuration is a `Table`: a frozen dataclass whose fields say what they take. A rule for one
value is part of the field's type, a rule between fields is a generator listed in ``relations``::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class AlarmConfig(Table):
        enter: Annotated[float, above(0)] = 1.0
        leave: float = 0.7

        def _leave_at_most_enter(self) -> Iterator[Problem]:
            if self.leave > self.enter:
                yield Problem(("leave",), f"must not exceed enter, got {self.leave} > {self.enter}")

        relations = (_leave_at_most_enter,)

The same rules hold for ``AlarmConfig(leave=3, enter=2)`` in Python and for ``load(AlarmConfig,
path)``; only what lies on the disk (`InputFile`, `OutputFile`) is looked at by ``load`` alone.

A field is a ``str``, ``int`` (not a bool), ``float`` (finite; a whole number will do), ``bool``,
``Path`` (relative to the folder of the TOML file), ``Literal``, another `Table`, a
``tuple[T, ...]`` of these, any of them ``| None``, or two of them that TOML tells apart, such as
``int | tuple[str, ...]``.
"""

import dataclasses
import difflib
import json
import math
import os
import stat
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, TypeAlias, TypeVar

from edge_runtime.errors import ConfigError

Step: TypeAlias = str | tuple[str, int]
"""A key, or an item (from 0) of the array under a key."""

Where: TypeAlias = tuple[Step, ...]


class Problem(NamedTuple):
    """What is wrong, and where: ``Problem((("pipeline", 1), "alarm", "enter"), "wanted ...")``."""

    where: Where
    text: str

    def __str__(self) -> str:
        """``[[pipeline]] 2, [alarm] enter: wanted ...``."""
        *outer, last = self.where
        tables = [f"[{s}]" if isinstance(s, str) else f"[[{s[0]}]] {s[1] + 1}" for s in outer]
        key = last if isinstance(last, str) else f"{last[0]} {last[1] + 1}"
        return f"{', '.join(tables)} {key}: {self.text}".lstrip()


class Check(NamedTuple):
    """A rule for one value, for use in ``Annotated``.

    Attributes:
        complaint: Gives what was wanted and what came, or None for a good value.
        on_disk: The rule looks at files, so it is for `load` only.
    """

    complaint: Callable[[Any], str | None]
    on_disk: bool = False


class Table:
    """Base of the frozen dataclasses that are read from a TOML table and check themselves.

    Attributes:
        relations: Rules between fields. Each stands on its own: it is asked even when other fields
            could not be read, and when the tables inside break relations of theirs.

    Raises:
        ConfigError: On construction, with every rule that the values break.
    """

    __slots__ = ()
    relations: ClassVar[tuple[Callable[[Any], Iterator[Problem]], ...]] = ()

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in _kinds(type(self))}
        _, problems = _examine(type(self), values, on_disk=False)
        if problems:
            raise ConfigError([f"{type(self).__name__} {problem}" for problem in problems])


AnyTable = TypeVar("AnyTable", bound=Table)


def load(table: type[AnyTable], path: Path) -> AnyTable:
    """Reads the TOML file at ``path``.

    Raises:
        ConfigError: With every problem, each as ``file: [table] key: what was wanted, what came``.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    try:
        # Editors on Windows put a byte order mark before UTF-8; it carries no meaning.
        raw = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ConfigError([f"{path}: line {line}: wanted UTF-8, got byte {byte:#04x}"]) from error
    except (ValueError, RecursionError) as error:  # tomllib also lets those of int() and [[[[ out
        raise ConfigError([f"{path}: wanted TOML: {error}"]) from error
    return read(table, raw, path)


def read(table: type[AnyTable], raw: Mapping[str, Any], path: Path) -> AnyTable:
    """Reads what ``tomllib`` made of the file at ``path``.

    Raises:
        ConfigError: As `load`.
    """
    reader = _Reader(Path(path).parent)
    made = reader.table(table, raw, ())
    if reader.problems:
        raise ConfigError([f"{path}: {problem}" for problem in reader.problems])
    return made


def show(value: object) -> str:
    """A value much as TOML would have it, short enough for the line of an error."""
    shown = _SHOWN.get(type(value), str)(value)
    return shown if len(shown) <= _LONG else f"{shown[: _LONG - 3]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean url?`` when a known name is close, else which names there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"wanted one of {', '.join(names)}"


def at_least(low: float) -> Check:
    """The number is ``low`` or more."""
    return Check(lambda n: None if n >= low else f"wanted {low} or more, got {show(n)}")


def above(low: float) -> Check:
    """The number is greater than ``low``."""
    return Check(lambda n: None if n > low else f"wanted more than {low}, got {show(n)}")


def below(high: float) -> Check:
    """The number is less than ``high``."""
    return Check(lambda n: None if n < high else f"wanted less than {high}, got {show(n)}")


def between(low: float, high: float) -> Check:
    """The number is from ``low`` to ``high``, both included."""
    return Check(lambda n: None if low <= n <= high else f"wanted {low} to {high}, got {show(n)}")


def one_of(*choices: object) -> Check:
    """The value is one of ``choices``; what ``Literal`` stands for."""
    wanted = " or ".join(show(choice) for choice in choices)
    return Check(lambda value: None if value in choices else f"wanted {wanted}, got {show(value)}")


def _unreadable(path: Path) -> str | None:
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return f"wanted a file to read, got {path}: {error.strerror}"


def _unwritable(path: Path) -> str | None:
    targets = [path.parent]
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return f"wanted a file, got the folder {path}"
        targets.append(path)
    except FileNotFoundError:
        if not path.parent.is_dir():
            return f"wanted a file in a folder that exists, got {path}"
    except OSError as error:
        return f"wanted a file to write, got {path}: {error.strerror}"
    barred = [t for t in targets if not os.access(t, os.W_OK, effective_ids=True)]
    return f"wanted a file to write, got {path}: no right to write {barred[0]}" if barred else None


InputFile: TypeAlias = Annotated[Path, Check(_unreadable, on_disk=True)]
"""A file that exists and can be read, as far as `load` can know."""

OutputFile: TypeAlias = Annotated[Path, Check(_unwritable, on_disk=True)]
"""A file, there already or not, that can be written, as far as `load` can know."""


def _show_whole_number(number: int) -> str:
    # Python refuses to print one of more than 4,300 digits, which TOML can hold in hexadecimal.
    return str(number) if abs(number) < _LARGE else f"a number of {number.bit_length()} bits"


_LARGE: Final = 1 << 64
_LONG: Final = 80
_SHOWN: Final[dict[type, Callable[[Any], str]]] = {
    str: lambda text: json.dumps(text, ensure_ascii=False),
    int: _show_whole_number,
    bool: lambda value: str(value).lower(),
    list: lambda items: f"an array of {len(items)}",
    dict: lambda table: "a table" if table else "an empty table",
}


class _Kind(NamedTuple):
    """What a type hint stands for.

    Attributes:
        base: The type without ``Annotated`` and ``None``; the array's for ``tuple[T, ...]``.
        wanted: How it is called in an error.
        accepted: The types in which ``tomllib`` delivers it.
        convert: From what ``tomllib`` delivers, in a file's folder and at a place in that file.
        checks: Rules for the value.
        item: What ``T`` stands for in ``tuple[T, ...]``.
    """

    base: type
    wanted: str
    accepted: tuple[type, ...]
    convert: "Callable[[_Reader, Any, Where], object]" = lambda _reader, raw, _where: raw
    checks: tuple[Check, ...] = ()
    item: "_Kind | None" = None


def _float(_reader: "_Reader", number: float, _where: Where) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number beyond the largest float: refused as not finite
        return math.inf


def _path(reader: "_Reader", path: str, _where: Where) -> Path:
    return reader.folder / path


_FINITE: Final = Check(lambda n: None if math.isfinite(n) else f"wanted a finite number, got {n}")
_NO_NUL: Final = Check(lambda p: "wanted a path, got one with a NUL" if "\0" in str(p) else None)
_SCALARS: Final = {
    str: _Kind(str, "text", (str,)),
    int: _Kind(int, "a whole number", (int,)),
    bool: _Kind(bool, "true or false", (bool,)),
    float: _Kind(float, "a number", (int, float), _float, (_FINITE,)),
    Path: _Kind(Path, "a path", (str,), _path, (_NO_NUL,)),
}


def _kind(hint: Any) -> _Kind:  # noqa: ANN401 type hints have no type in common
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        inner = _kind(arguments[0])
        return inner._replace(checks=inner.checks + arguments[1:])
    if origin in (typing.Union, types.UnionType):
        given = [argument for argument in arguments if argument is not types.NoneType]
        return _kind(given[0]) if len(given) == 1 else _either([_kind(hint) for hint in given])
    if origin is Literal:
        return _kind(type(arguments[0]))._replace(checks=(one_of(*arguments),))
    if origin is tuple:
        item = _kind(arguments[0])
        plural = "tables" if issubclass(item.base, Table) else item.wanted
        wanted = f"an array of {plural}"
        return _Kind(tuple, wanted, (list,), lambda r, raw, at: r.items(item, raw, at), item=item)
    if issubclass(hint, Table):
        return _Kind(hint, "a table", (dict,), lambda r, raw, at: r.table(hint, raw, at))
    return _SCALARS[hint]


def _either(kinds: Sequence[_Kind]) -> _Kind:
    """Any of some kinds that TOML tells apart; the rules of the one that came hold."""

    def convert(reader: "_Reader", raw: object, where: Where) -> object:
        kind = next(kind for kind in kinds if type(raw) in kind.accepted)
        return kind.convert(reader, raw, where)

    def complaint(value: object) -> str | None:
        checks = (c for kind in kinds if isinstance(value, kind.base) for c in kind.checks)
        return next(filter(None, (check.complaint(value) for check in checks)), None)

    accepted = tuple(kind for each in kinds for kind in each.accepted)
    wanted = " or ".join(kind.wanted for kind in kinds)
    return _Kind(object, wanted, accepted, convert, (Check(complaint),))


def _kinds(table: type[Table]) -> dict[str, _Kind]:
    hints = typing.get_type_hints(table, include_extras=True)
    return {field.name: _kind(hints[field.name]) for field in _fields(table)}


def _fields(table: type[Table]) -> "tuple[dataclasses.Field[Any], ...]":
    return dataclasses.fields(table)  # type: ignore[arg-type]  # each subclass is a dataclass


def _broken(kind: _Kind, value: object, step: Step, *, on_disk: bool) -> Iterator[Problem]:
    """The first rule that a value breaks, or the first that each of its items does."""
    if value is None:
        return
    checks = (check for check in kind.checks if on_disk or not check.on_disk)
    complaint = next(filter(None, (check.complaint(value) for check in checks)), None)
    if complaint is not None:
        yield Problem((step,), complaint)
    elif isinstance(value, tuple) and kind.item is not None:
        for index, item in enumerate(value):
            yield from _broken(kind.item, item, (str(step), index), on_disk=on_disk)


def _examine(
    table: type[AnyTable], values: Mapping[str, object], *, on_disk: bool
) -> tuple[AnyTable, list[Problem]]:
    """The table with those of its values that are good, and what is wrong with the others."""
    partial = object.__new__(table)
    problems: list[Problem] = []
    kinds = _kinds(table)
    for name, value in values.items():
        broken = list(_broken(kinds[name], value, name, on_disk=on_disk))
        problems += broken
        if not broken:
            object.__setattr__(partial, name, value)
    for relation in table.relations:
        # A relation that reaches for a missing value is left: that value has its own problem.
        with suppress(AttributeError):
            problems += list(relation(partial))
    return partial, problems


_UNREAD: Final = object()


class _Reader:
    """Reads tables, and notes each problem instead of stopping at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []

    def table(self, table: type[AnyTable], raw: Mapping[str, Any], where: Where) -> AnyTable:
        """The table; after a problem, one that lacks the values which are not good."""
        before = len(self.problems)
        kinds = _kinds(table)
        for key in raw:
            if key not in kinds:
                self.refuse((*where, key), f"unknown key, {did_you_mean(key, kinds)}")
        read = {}
        for field in _fields(table):
            kind, inside = kinds[field.name], (*where, field.name)
            if field.name in raw:
                value = self.value(kind, raw[field.name], inside)
            else:
                value = self.default(field, kind, inside)
            if value is not _UNREAD:
                read[field.name] = value
        partial, problems = _examine(table, read, on_disk=True)
        for problem in problems:
            self.refuse((*where, *problem.where), problem.text)
        return partial if len(self.problems) > before else table(**read)

    def value(self, kind: _Kind, raw: object, where: Where) -> object:
        """A value of that kind, or `_UNREAD`."""
        if type(raw) not in kind.accepted:
            return self.refuse(where, f"wanted {kind.wanted}, got {show(raw)}")
        return kind.convert(self, raw, where)

    def items(self, kind: _Kind, raw: Sequence[object], where: Where) -> object:
        """All items of an array, or `_UNREAD`."""
        *outer, name = where
        items = [self.value(kind, item, (*outer, (str(name), at))) for at, item in enumerate(raw)]
        return _UNREAD if any(item is _UNREAD for item in items) else tuple(items)

    def default(self, field: "dataclasses.Field[Any]", kind: _Kind, where: Where) -> object:
        """What stands for a key that is not there, or `_UNREAD`."""
        if field.default is not dataclasses.MISSING:
            return field.default
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
        if issubclass(kind.base, Table):
            return self.table(kind.base, {}, where)  # which says what it needs, key by key
        return self.refuse(where, f"missing, wanted {kind.wanted}")

    def refuse(self, where: Where, text: str) -> object:
        """Notes a problem; gives what stands for the value."""
        self.problems.append(Problem(where, text))
        return _UNREAD
