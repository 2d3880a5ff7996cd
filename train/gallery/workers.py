"""Trainings side by side, each in a process of its own."""

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple

import torch

from edge_runtime.errors import TrainingError
from train.gallery.adding import Curve, Task, learn

LOOK_S = 0.2  # between two looks at what the workers have done


class _Lines(NamedTuple):
    """How a worker and the one who waits for it hear of each other."""

    told: "Queue[int]"
    stop: Event


class _Stopped(Exception):  # noqa: N818 - no error: nobody waits for the result any more
    """The one who asked has gone."""


def learn_all(
    tasks: Sequence[Task], jobs: int, on_work: Callable[[int], Any]
) -> Generator[Curve, None, None]:
    """Trains cells side by side. Close it, or end it by an exception, and the workers end too.

    Args:
        tasks: What to learn; the longest first leaves no worker idle at the end.
        jobs: Processes; with 1 it is this one.
        on_work: Told of work done, in steps of the optimiser times the length of a sequence.

    Yields:
        A curve as soon as it is there. Which ones come first is left to chance, what they say not.

    Raises:
        TrainingError: If a worker died.
    """
    if jobs == 1:
        for task in tasks:
            yield learn(task, lambda steps, task=task: on_work(steps * task.length))  # type: ignore[misc]
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    lines = _Lines(context.Queue(), context.Event())
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(lines,)) as pool:
        try:
            with _ctrl_c_waits():
                waiting = {pool.submit(_work, task) for task in tasks}
            while waiting:
                done, waiting = wait(waiting, LOOK_S, FIRST_COMPLETED)
                while not lines.told.empty():
                    on_work(lines.told.get())
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process that trained was killed; is there too little memory? Fewer --jobs help"
            ) from error
        finally:
            lines.stop.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C comes through at the end; processes that begin in here never hear of it.

    They inherit the mask. It does not hold the signal back from this process, which may have
    threads of its libraries that do not know of it, so the handler waits too.
    """
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if came:
            raise KeyboardInterrupt


_lines: _Lines


def _begin(lines: _Lines) -> None:
    """In each worker, before its first task."""
    global _lines  # a worker has no other place to keep it
    _lines = lines
    torch.set_num_threads(1)


def _work(task: Task) -> Curve:
    def tell(steps: int) -> None:
        if _lines.stop.is_set():
            raise _Stopped
        _lines.told.put(steps * task.length)

    return learn(task, tell)
