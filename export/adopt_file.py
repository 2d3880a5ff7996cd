"""A stateful ONNX file of somebody else's: what it takes and gives, and what was said about it.

Nothing is inferred. What somebody says about the file is compared with it, and what was not said
is at most suggested.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

from edge_runtime.axes import Axes
from edge_runtime.contract import CONTRACT_KEY, FLOATS, STATE_DTYPES, Tensor, holds
from edge_runtime.errors import AdoptError, ModelError
from edge_runtime.inference import open_inference, tensors_of


@dataclass(frozen=True, slots=True)
class Foreign:
    """The file.

    Attributes:
        path: Where it is.
        content: Its bytes.
        inputs: By name, in the graph's order.
        outputs: By name, in the graph's order.
        has_contract: Whether it has a contract already.
    """

    path: Path
    content: bytes
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    has_contract: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is said about the file, option by option.

    Attributes:
        x: Input for the samples.
        score: Output with the score.
        states: Output that gives the successor of each carried input.
        constants: Value of each constant input.
        initial: Value that a state begins with, by input; 0 unless given.
        shapes: Shape of a state, by input, where the file leaves more than one length open.
        contribution: Output with each sensor's share.
        features: Names of the sensors; empty: ``x0``, ``x1``, ...
        feature_count: How many they are, where the file leaves it open.
        axes: Axes of ``x``; None: found out.
        one_stream: Whether the model may be called with one stream at a time.
        look_ahead: Samples by which a score is late.
        period_ms: Milliseconds between two samples.
        max_gap_ms: A longer silence starts afresh; None: five periods.
        warm_up_steps: Scores that do not count after a start.
    """

    x: str
    score: str
    states: dict[str, str] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)
    initial: dict[str, float] = field(default_factory=dict)
    shapes: dict[str, Axes] = field(default_factory=dict)
    contribution: str | None = None
    features: tuple[str, ...] = ()
    feature_count: int | None = None
    axes: Axes | None = None
    one_stream: bool = False
    look_ahead: int = 0
    period_ms: float = 1000.0
    max_gap_ms: float | None = None
    warm_up_steps: int = 0


def read_foreign(path: Path) -> Foreign:
    """Reads and opens the file.

    Raises:
        AdoptError: Naming the file and why it cannot be opened.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AdoptError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        inference = open_inference(content)
        metadata = inference.get_modelmeta().custom_metadata_map
        inputs, outputs = tensors_of(inference.get_inputs()), tensors_of(inference.get_outputs())
    except (ModelError, UnicodeDecodeError) as error:
        raise AdoptError(f"{path}: {error}") from error
    return Foreign(path, content, inputs, outputs, CONTRACT_KEY in metadata)


def check_request(foreign: Foreign, request: Request) -> None:
    """Compares what was said with what the file has.

    Raises:
        AdoptError: With everything that does not fit, one line each.
    """
    problems = [
        *_name_problems(foreign, request),
        *_pair_problems(foreign, request),
        *_constant_problems(foreign, request),
    ]
    if problems:
        raise AdoptError("\n".join(f"{foreign.path}: {problem}" for problem in problems))


def show(tensor: Tensor) -> str:
    """Dtype and shape; a length that is open has its name, or ``?``."""
    return f"{tensor.dtype} [{', '.join('?' if n is None else str(n) for n in tensor.shape)}]"


def listing(foreign: Foreign) -> list[str]:
    """Inputs and outputs with dtype and shape, one line each."""
    width = max(map(len, [*foreign.inputs, *foreign.outputs]), default=0)
    sides = (("input", foreign.inputs), ("output", foreign.outputs))
    return [
        f"  {side:6}  {name:{width}}  {show(tensor)}"
        for side, tensors in sides
        for name, tensor in tensors.items()
    ]


def suggestion(foreign: Foreign) -> str:
    """A command line that may be right: a state is what an output has the dtype and shape of."""
    pairs = _likely_pairs(foreign)
    rest = {name: t for name, t in foreign.inputs.items() if name not in pairs}
    samples = [name for name, t in rest.items() if t.dtype in FLOATS and len(t.shape) > 1]
    x = next(iter(samples), "NAME")
    scores = [name for name in foreign.outputs if name not in pairs.values()]
    words = [f"andon adopt {foreign.path} --input {x}"]
    words += [f"--state {name}={output}" for name, output in pairs.items()]
    words += [f"--constant {name}=VALUE" for name in rest if name != x]
    words += [f"--score {next(iter(scores), 'NAME')}"]
    shape = foreign.inputs[x].shape if x in foreign.inputs else ()
    if shape and not any(isinstance(n, int) and n > 1 for n in shape):
        words.append("--features COUNT")
    return " ".join([*words, "-o ADOPTED.onnx"])


def _likely_pairs(foreign: Foreign) -> dict[str, str]:
    """Inputs and outputs that fit each other, most alike in name first.

    One input is left over for the samples and one output for the score.
    """
    fitting = [
        (_likeness(name, output), name, output)
        for name, tensor in foreign.inputs.items()
        for output, other in foreign.outputs.items()
        if other.dtype == tensor.dtype and tensor.shape and _may_be_equal(tensor, other)
    ]
    floats = [name for name, t in foreign.inputs.items() if t.dtype in FLOATS]
    pairs: dict[str, str] = {}
    for _, name, output in sorted(fitting, reverse=True):
        is_last = len(pairs) + 1 == len(foreign.outputs) or {*floats} <= {*pairs, name}
        if name not in pairs and output not in pairs.values() and not is_last:
            pairs[name] = output
    return {name: pairs[name] for name in foreign.inputs if name in pairs}


def _likeness(name: str, output: str) -> float:
    one, other = name.lower(), output.lower()
    return SequenceMatcher(None, one, other).ratio() + other.startswith(one)


def _name_problems(foreign: Foreign, request: Request) -> Iterable[str]:
    taken = [request.x, *request.states, *request.constants]
    given = [request.score, *request.states.values()]
    given += [] if request.contribution is None else [request.contribution]
    for side, wanted, offered in (
        ("input", taken, foreign.inputs),
        ("output", given, foreign.outputs),
    ):
        yield from (_unknown(side, name, offered) for name in wanted if name not in offered)
        for name in sorted({name for name in wanted if wanted.count(name) > 1}):
            yield f"{side} {name!r} is said to be two things"
    for name, tensor in foreign.inputs.items():
        if name not in taken:
            yield (
                f"input {name!r} {show(tensor)} is neither x, a state nor a constant: say "
                + (f"--constant {name}=VALUE or " if _is_one_number(tensor) else "")
                + f"--state {name}=OUTPUT"
            )
    for option, names in (("--initial", request.initial), ("--shape", request.shapes)):
        yield from (f"{option} {n}: no such --state" for n in names if n not in request.states)


def _pair_problems(foreign: Foreign, request: Request) -> Iterable[str]:
    for name, output in request.states.items():
        before, after = foreign.inputs.get(name), foreign.outputs.get(output)
        if before is None or after is None:
            continue  # said already
        if before.dtype not in STATE_DTYPES:
            wanted = ", ".join(STATE_DTYPES)
            yield f"state {name}: wanted one of {wanted}, the file has {before.dtype}"
        elif before.dtype != after.dtype or not _may_be_equal(before, after):
            pair = f"{name} {show(before)} and {output} {show(after)}"
            yield f"state {name}: its successor must have its dtype and shape, got {pair}"
    x = foreign.inputs.get(request.x)
    if x is not None:
        yield from _sample_problems(request.x, x)
    score = foreign.outputs.get(request.score)
    if score is not None and score.dtype not in FLOATS:
        yield f"score {request.score}: wanted one of {', '.join(FLOATS)}, got {score.dtype}"


def _constant_problems(foreign: Foreign, request: Request) -> Iterable[str]:
    for name, value in request.constants.items():
        tensor = foreign.inputs.get(name)
        if tensor is None:
            continue  # said already
        if not _is_one_number(tensor):
            yield f"constant {name}: wanted a single number, the file has {show(tensor)}"
        elif not holds(tensor.dtype, value):
            yield f"constant {name}: {value:g} is no {tensor.dtype}, which the file has"


def _sample_problems(name: str, x: Tensor) -> Iterable[str]:
    if x.dtype not in FLOATS:
        yield f"x {name}: wanted one of {', '.join(FLOATS)}, the file has {x.dtype}"
    if not x.shape:
        yield f"x {name}: wanted axes for features, streams and time, the file has none"
    named = [n for n in x.shape if isinstance(n, str) and n]
    for repeated in sorted({n for n in named if named.count(n) > 1}):
        at = [i for i, n in enumerate(x.shape) if n == repeated]
        yield f"x {name}: axes {at} have one length, {repeated!r}: they cannot be told apart"


def _is_one_number(tensor: Tensor) -> bool:
    rank, shape = len(tensor.shape), tensor.shape
    return tensor.dtype in STATE_DTYPES and (rank == 0 or (rank == 1 and shape[0] in {1, None}))


def _may_be_equal(before: Tensor, after: Tensor) -> bool:
    """An output whose shape the file does not say may have any."""
    if not after.shape and before.shape:
        return True
    return len(before.shape) == len(after.shape) and all(
        a == b or not isinstance(a, int) or not isinstance(b, int)
        for a, b in zip(before.shape, after.shape, strict=True)
    )


def _unknown(side: str, name: str, offered: Mapping[str, Tensor]) -> str:
    close = get_close_matches(name, offered, 1)
    advice = f"; did you mean {close[0]}?" if close else ""
    return f"no {side} {name!r}, it has {', '.join(offered) or 'none'}{advice}"
