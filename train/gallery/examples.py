"""The four examples: what each trains, keeps, draws and says."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from train.gallery import adder, adding, by_hand, cliff, page, pictures
from train.gallery.adder import Skill
from train.gallery.adding import Curve
from train.gallery.kept import keep, read_kept
from train.gallery.workers import learn_all

OnWork = Callable[[int], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user may choose.

    Attributes:
        folder: Where everything goes.
        steps: Steps of the optimiser for each cell and length of the adding problem.
        jobs: Processes that train.
        seed: Of weights and data.
        force: Train anew what is there.
    """

    folder: Path
    steps: int
    jobs: int
    seed: int
    force: bool


class Example(Protocol):
    """One example of the gallery."""

    @property
    def work(self) -> int:
        """What is still to be trained, in units of its own."""

    def train(self, on_work: OnWork) -> None:
        """Trains what is missing, and keeps it.

        Args:
            on_work: Told of work done.
        """

    def draw(self) -> page.Section:
        """Draws its pictures and says what they show."""


class ByHand:
    """The LSTM worked by hand; nothing to train."""

    work = 0

    def __init__(self, options: Options) -> None:
        self._folder = options.folder

    def train(self, on_work: OnWork) -> None:
        """See `Example.train`."""

    def draw(self) -> page.Section:
        """See `Example.draw`."""
        steps = by_hand.work(by_hand.detector(), by_hand.X)
        pictures.draw_by_hand(self._folder / "by-hand.png", steps)
        return page.by_hand_section()


class Adder:
    """The adder, with memory and without.

    Raises:
        TrainingError: If what is kept in the folder is of something else.
    """

    def __init__(self, options: Options) -> None:
        self._folder = options.folder
        self.path = options.folder / "adder.json"
        self.settings: dict[str, Any] = {
            "seed": options.seed,
            "hidden": adder.HIDDEN,
            "additions": adder.ADDITIONS,
            "longest": adder.LONGEST,
            "rates": [list(stretch) for stretch in adder.RATES],
        }
        kept = None if options.force else read_kept(self.path, self.settings, list[Skill])
        self.skills = kept or []

    @property
    def work(self) -> int:
        """In passes over the additions."""
        return len(self._missing) * sum(passes for passes, _ in adder.RATES)

    @property
    def _missing(self) -> list[tuple[str, ...]]:
        done = [skill.layers for skill in self.skills]
        return [layers for layers in (adder.LAYERS, adder.MEMORYLESS) if layers not in done]

    def train(self, on_work: OnWork) -> None:
        """See `Example.train`."""
        for layers in self._missing:
            trained = adder.learn(layers, self.settings["seed"], lambda _: on_work(1))
            self.skills.append(adder.skill(trained))
            keep(self.path, self.settings, self.skills)

    def draw(self) -> page.Section:
        """See `Example.draw`."""
        pictures.draw_adder(self._folder / "adder.png", self.skills)
        return page.adder_section(self.skills)


class Cliff:
    """Powers of a weight, and the cliff; nothing to train."""

    work = 0

    def __init__(self, options: Options) -> None:
        self._folder = options.folder

    def train(self, on_work: OnWork) -> None:
        """See `Example.train`."""

    def draw(self) -> page.Section:
        """See `Example.draw`."""
        plain, clipped = (cliff.jump(cliff.EDGE, clipped=clipped) for clipped in (False, True))
        pictures.draw_powers(self._folder / "powers.png")
        pictures.draw_cliff(self._folder / "cliff.png", plain, clipped)
        return page.cliff_section(plain, clipped)


class AddingProblem:
    """Every cell at every length; each curve is kept as soon as it is there.

    Args:
        options: Where, how long, how many at a time.

    Raises:
        TrainingError: If what is kept in the folder is of something else.
    """

    def __init__(self, options: Options) -> None:
        self._folder = options.folder
        self.path = options.folder / "adding.json"
        self.jobs = options.jobs
        self.settings: dict[str, Any] = {
            "steps": options.steps,
            "seed": options.seed,
            "hidden": adding.HIDDEN,
            "batch": adding.BATCH,
            "clip_norm": adding.CLIP_NORM,
            "learning_rates": adding.LEARNING_RATES,
            "lengths": list(adding.LENGTHS),
        }
        kept = None if options.force else read_kept(self.path, self.settings, list[Curve])
        self.curves = kept or []
        done = {(curve.cell, curve.length) for curve in self.curves}
        every = adding.tasks(options.steps, options.seed)
        self._tasks = [task for task in every if (task.cell, task.length) not in done]

    @property
    def work(self) -> int:
        """In steps of the optimiser times the length of a sequence."""
        return sum(task.steps * task.length for task in self._tasks)

    def train(self, on_work: OnWork) -> None:
        """See `Example.train`."""
        with closing(learn_all(self._tasks, self.jobs, on_work)) as learnt:
            for curve in learnt:
                self.curves.append(curve)
                keep(self.path, self.settings, self.curves)

    def draw(self) -> page.Section:
        """See `Example.draw`."""
        pictures.draw_adding(self._folder / "adding.png", self.curves)
        return page.adding_section(self.curves, self.settings)


EXAMPLES: dict[str, Callable[[Options], Example]] = {
    "by-hand": ByHand,
    "adder": Adder,
    "cliff": Cliff,
    "adding": AddingProblem,
}
