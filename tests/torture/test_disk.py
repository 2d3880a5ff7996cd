"""The disk fails under load: nothing is acknowledged that is not safe, and everything comes back.

In every other round the daemon is killed while the fault lasts, and started into it. Had it
acknowledged anything by then, that would be missing in the end.
"""

import random
import resource
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import pytest

from conftest import Broker
from torture.ear import Ear
from torture.figures import FULL, Figures
from torture.story import WILD, both_kinds
from torture.works import PATIENCE_S, MakeWorks, Works

# In short slow enough for the messages to last on any machine.
RATE = 800.0 if FULL else 300.0
ROUNDS = 6 if FULL else 2
DISK_BYTES = 24 << 20

Process = subprocess.Popen[bytes]


class Fault(Protocol):
    """Something that keeps the daemon from writing.

    Attributes:
        cause: What the status says then.
        only_at_start: A daemon that runs already can go on writing.
    """

    cause: str
    only_at_start: bool

    def strike(self, works: Works) -> None:
        """It begins."""

    def hit(self, daemon: Process) -> None:
        """What has to be done to each daemon while it lasts; the newest is told last."""

    def mend(self) -> None:
        """It is over."""


class Locked:
    """Another process writes and does not come to an end."""

    cause = "is locked by another process"
    only_at_start = False

    def strike(self, works: Works) -> None:
        self._other = sqlite3.connect(works.database, isolation_level=None, timeout=30.0)
        self._other.execute("BEGIN IMMEDIATE")

    def hit(self, daemon: Process) -> None:
        """Nothing more."""

    def mend(self) -> None:
        self._other.execute("ROLLBACK")
        self._other.close()


class Limited:
    """No file may grow beyond a few pages, as with a quota."""

    cause = "I/O error"
    only_at_start = False

    def strike(self, works: Works) -> None:
        """Nothing but what happens to the daemon."""

    def hit(self, daemon: Process) -> None:
        self._daemon = daemon
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (16_384, resource.RLIM_INFINITY))

    def mend(self) -> None:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(self._daemon.pid, resource.RLIMIT_FSIZE, unlimited)


class Full:
    """Somebody else's file takes all that is left of the disk."""

    cause = "no room"
    only_at_start = False

    def strike(self, works: Works) -> None:
        self._ballast = works.database.with_name("ballast")
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def hit(self, daemon: Process) -> None:
        """Nothing more."""

    def mend(self) -> None:
        self._ballast.unlink()


class ReadOnly:
    """Somebody has taken the right to write; a daemon that has the files open goes on.

    From the log alone: what cannot write the database itself is refused when it starts, by name.
    """

    cause = "is read-only"
    only_at_start = True

    def strike(self, works: Works) -> None:
        self._log = works.database.with_name(f"{works.database.name}-wal")
        self._log.chmod(0o444)

    def hit(self, daemon: Process) -> None:
        """Nothing more."""

    def mend(self) -> None:
        self._log.chmod(0o644)


FAULTS: dict[str, type[Fault]] = {
    "locked": Locked,
    "limited": Limited,
    "full": Full,
    "read-only": ReadOnly,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_disk_that_fails_under_load(
    broker: Broker, make_works: MakeWorks, figures: Figures, name: str
) -> None:
    fault, chance = FAULTS[name](), random.Random(name)
    works = make_works(broker)
    reference = works.configure(state="max_mb = 16")
    began = time.monotonic()
    degraded_s = 0.0
    with small_disk(works, wanted=name == "full"), Ear(broker.port) as ear:
        works.introduce(ear)
        machines = works.machines(both_kinds(5, 12 * ROUNDS + 20, **WILD), rate=RATE)
        daemon = works.start(seam="never")
        for number in range(ROUNDS):
            goes_on(ear)
            time.sleep(chance.uniform(0.0, 0.5))
            struck_at = time.monotonic()
            if fault.only_at_start:
                works.kill(daemon)
            fault.strike(works)
            if fault.only_at_start:
                daemon = works.start(seam="never")
            fault.hit(daemon)
            await_degraded(ear, struck_at, fault.cause)
            if number % 2:
                time.sleep(chance.uniform(0.0, 1.0))
                works.kill(daemon)
                again_at = time.monotonic()
                daemon = works.start(seam="never")
                fault.hit(daemon)
                await_degraded(ear, again_at, fault.cause)
            mended_at = time.monotonic()
            fault.mend()
            ear.until_word("online", mended_at, PATIENCE_S)
            degraded_s += time.monotonic() - struck_at
        assert machines.busy, "the machines had nothing left to send"
        machines.stop()
        machines.finish(PATIENCE_S)
        works.hear_all(ear)
        daemon.terminate()
        assert daemon.wait(PATIENCE_S) == 0
        counts = works.assert_as_replayed(ear, reference)
    assert counts.flags > 20
    figures.note(
        f"disk: {name}",
        {
            "times": ROUNDS,
            "kills": works.kills,
            "seconds": time.monotonic() - began,
            "of them degraded": degraded_s,
            "messages": reference.messages,
            "flags": counts.flags,
            "flags said again": counts.repeated_flags,
        },
    )


@contextmanager
def small_disk(works: Works, *, wanted: bool) -> Iterator[None]:
    """A disk of its own for the database, where the test may make one."""
    if not wanted:
        yield
        return
    folder = str(works.database.parent)
    options = f"size={DISK_BYTES}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("only root may mount a small disk; 'limited' and max_mb are tested without")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def await_degraded(ear: Ear, since: float, cause: str) -> None:
    """Waits until the gateway says so, and why."""
    ear.until_word("degraded", since, PATIENCE_S)
    assert cause in ear.details.decode(), ear.details


def goes_on(ear: Ear) -> None:
    """Waits until scores are heard again."""
    before = len(ear.heard)
    ear.until(lambda: len(ear.heard) > before + 100, "further scores", PATIENCE_S)
