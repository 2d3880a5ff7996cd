"""The daemon, with all its real parts, that ends by SIGKILL at a seam between two of them.

    python -m torture.crashing SEAM NTH gateway.toml [OPTIONS]

The product has no hooks for that: the methods on both sides of each seam are wrapped from here.
Snapshots and new epochs come much more often than in earnest, so that every kill is near one, and
the broker is not waited for as long. Where root runs it, it has no more rights than everybody. At
the seam "never" the daemon just goes on.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import edge_runtime.daemon
import edge_runtime.journal
import edge_runtime.starting
from edge_runtime.cli import main
from edge_runtime.epochs import Epochs
from edge_runtime.journal import Journal
from edge_runtime.link import Backoff, Link
from edge_runtime.recovery import run_journal
from edge_runtime.starting import Recovered, recover

Hook = Callable[..., None]


class Strike:
    """Kills the process the n-th time that it is called."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def __call__(self, *_: object) -> None:
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_samples(self, _: object, group: Any, *__: object) -> None:
        """Only where samples are at stake."""
        if group.admitted or group.abreast:
            self()


def wrap(owner: type, name: str, before: Hook | None = None, after: Hook | None = None) -> None:
    """Has a method call something with its own arguments, before and after its work."""
    inner = getattr(owner, name)

    def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(self, *args)
        result = inner(self, *args, **kwargs)
        if after is not None:
            after(self, *args)
        return result

    setattr(owner, name, outer)


def _before_commit(strike: Strike) -> None:
    wrap(Journal, "commit", before=strike.on_samples)


def _within_commit(strike: Strike) -> None:
    wrap(Journal, "_append", after=lambda self, _, group: strike.on_samples(self, group))


def _after_commit(strike: Strike) -> None:
    wrap(Journal, "commit", after=strike.on_samples)


def _between_acknowledgements(strike: Strike) -> None:
    inner = Link.acknowledge

    def half(self: Link, messages: Any) -> None:
        inner(self, messages[: len(messages) // 2])
        self._wire.turn(0.0)  # what was acknowledged reaches the broker
        if len(messages) > 1:
            strike()
        inner(self, messages[len(messages) // 2 :])

    setattr(Link, "acknowledge", half)  # noqa: B010 - mypy would not have it


def _after_acknowledgements(strike: Strike) -> None:
    def written(self: Link, messages: Any) -> None:
        self._wire.turn(0.0)
        if messages:
            strike()

    wrap(Link, "acknowledge", after=written)


def _between_publications(strike: Strike) -> None:
    def published(self: Link, *_: Any) -> None:
        self._wire.turn(0.0)
        strike()

    wrap(Link, "publish", after=published)


def _after_publications(strike: Strike) -> None:
    wrap(Journal, "delivered", after=lambda _, tokens: strike() if tokens else None)


def _before_snapshot(strike: Strike) -> None:
    wrap(Journal, "_write_snapshots", before=strike)


def _within_snapshot(strike: Strike) -> None:
    wrap(Journal, "_write_snapshots", after=strike)


def _after_snapshot(strike: Strike) -> None:
    wrap(Journal, "_note_snapshots", before=strike)


def _while_an_epoch_goes(strike: Strike) -> None:
    wrap(Epochs, "gone", before=strike)


def _while_loading(strike: Strike) -> None:
    def interrupted(*args: Any) -> Recovered:
        recovered = recover(*args)
        strike()
        return recovered

    vars(edge_runtime.journal)["recover"] = interrupted


def _while_running_again(strike: Strike) -> None:
    def interrupted(*args: Any) -> Iterator[Any]:
        for run in run_journal(*args):
            yield run
            strike()

    vars(edge_runtime.starting)["run_journal"] = interrupted
    wrap(Journal, "commit", after=strike.on_samples)  # there was nothing to run again


def _after_starting(strike: Strike) -> None:
    wrap(Journal, "open", after=strike)


def _while_closing(strike: Strike) -> None:
    wrap(Journal, "commit", after=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    wrap(Journal, "close", before=lambda *_: os.kill(os.getpid(), signal.SIGKILL))


SEAMS: dict[str, Callable[[Strike], None]] = {
    "before commit": _before_commit,
    "within commit": _within_commit,
    "after commit": _after_commit,
    "between acknowledgements": _between_acknowledgements,
    "after acknowledgements": _after_acknowledgements,
    "between publications": _between_publications,
    "after publications": _after_publications,
    "before snapshot": _before_snapshot,
    "within snapshot": _within_snapshot,
    "after snapshot": _after_snapshot,
    "while an epoch goes": _while_an_epoch_goes,
    "while loading": _while_loading,
    "while running again": _while_running_again,
    "after starting": _after_starting,
    "while closing": _while_closing,
}
ONCE = {"while running again", "after starting", "while closing"}
FEW = {"before snapshot", "within snapshot", "after snapshot", "while an epoch goes"}
"""Seams that a daemon comes to once, and those that it comes to a few times in a second."""


def arm(seam: str, nth: int) -> None:
    """The process ends at that seam, the n-th time that it comes there; at "never" it does not."""
    if seam in SEAMS:
        SEAMS[seam](Strike(1 if seam in ONCE else nth))
    hurry()


def hurry() -> None:
    """Snapshots all the time, a new epoch with each, and no long waits for the broker."""
    vars(edge_runtime.journal).update(SNAPSHOT_EVERY_S=0.1, MOST_SAMPLES=200)
    vars(edge_runtime.daemon).update(Link=partial(Link, backoff=Backoff(low_s=0.1, high_s=0.5)))
    setattr(Epochs, "is_over", lambda *_: True)  # noqa: B010 - mypy would not have it


def as_everybody() -> None:
    """Takes from root the right to write what it may not write (capabilities(7))."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x2008_0522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        for which in (0, 1):  # effective and permitted
            sets[which] &= ~(1 << 1)  # CAP_DAC_OVERRIDE
        libc.capset(header, sets)


if __name__ == "__main__":
    as_everybody()
    seam, nth, *arguments = sys.argv[1:]
    arm(seam, int(nth))
    main(["run", *arguments])
