"""`andon gallery`: options in, pictures and a page out."""

import os
import sys
from pathlib import Path

import click
import torch

from edge_runtime.errors import TrainingError
from train.gallery.examples import EXAMPLES, Options
from train.gallery.page import write_page

STEPS = 2000

HELP_EXAMPLES = """\b
Examples:
  andon gallery -o gallery-out
  andon gallery -o gallery-out --only cliff --only adder
  andon gallery -o gallery-out --steps 4000 --jobs 2
"""


@click.command(epilog=HELP_EXAMPLES)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for pictures and page.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=STEPS,
    show_default=True,
    help="Of training, for each cell and length of the adding problem.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=lambda: os.cpu_count() or 1,
    show_default="the cores",
    help="Processes that train.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(EXAMPLES)),
    help="Leave the other examples out of the page; repeatable.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**31 - 2),
    default=0,
    show_default=True,
    help="Of weights and data.",
)
@click.option("--force", is_flag=True, help="Train anew what the folder has already.")
@click.pass_context
def gallery(
    ctx: click.Context,
    /,
    output: Path,
    steps: int,
    jobs: int,
    only: tuple[str, ...],
    seed: int,
    force: bool,
) -> None:
    """Show in four examples what a memory is for, as pictures and a page that explains them.

    An LSTM worked by hand; an adder that needs memory; why long memories are hard to train; and
    which cell remembers how long. Takes about ten minutes on two cores.

    What was trained is kept as JSON in the folder: the same command again only draws it.
    """
    # As `andon train`: matrices this small are slower on two threads.
    torch.set_num_threads(1)
    options = Options(folder=output, steps=steps, jobs=jobs, seed=seed, force=force)
    chosen = [name for name in EXAMPLES if name in only or not only]
    examples = {name: EXAMPLES[name](options) for name in chosen}  # refuses before it trains
    sections = []
    try:
        for name, example in examples.items():
            if example.work:
                with click.progressbar(
                    length=example.work, label=f"training {name}", file=sys.stderr
                ) as bar:
                    example.train(bar.update)
            sections.append(example.draw())
            click.echo(f"drawn     {name}", err=True)
        write_page(output / "index.html", sections)
    except OSError as error:
        raise TrainingError(f"{output}: cannot be written: {error.strerror}") from error
    except KeyboardInterrupt:
        click.echo(
            "interrupted; what was trained to its end is kept, the same command goes on", err=True
        )
        ctx.exit(130)
    click.echo(f"look at   {output / 'index.html'}", err=True)
