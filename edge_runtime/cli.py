"""The command `andon`: click only. Training and export are loaded by name, only when asked for."""

from importlib import import_module
from typing import NamedTuple

import click

from edge_runtime.errors import AndonError


class Lazy(NamedTuple):
    """A command that is not loaded until it is asked for."""

    place: str
    help: str


LAZY = {
    "train": Lazy("train.cli:train", "Normal operation in, a calibrated detector out."),
    "export": Lazy("export.cli:export", "Write a trained detector as one verified ONNX file."),
    "adopt": Lazy("export.adopt_cli:adopt", "Give a stateful ONNX file a contract, after probing."),
    "inspect": Lazy("edge_runtime.inspect_cli:inspect", "Show what a model file promises."),
    "replay": Lazy("edge_runtime.replay_cli:replay", "Score recorded files as the gateway would."),
    "evaluate": Lazy("evaluate.cli:evaluate", "Judge detectors on labelled recordings."),
    "explain": Lazy("edge_runtime.recorder_cli:explain", "Show what led to a flag, afterwards."),
    "check": Lazy("edge_runtime.run_cli:check", "Name every error of a gateway configuration."),
    "run": Lazy("edge_runtime.run_cli:run", "The daemon: samples in, flags out, over MQTT."),
    "simulate": Lazy("edge_runtime.simulate:simulate", "A pump loop with faults on request."),
    "demo": Lazy("edge_runtime.demo:demo", "All of it on one computer, in three minutes."),
    "gallery": Lazy("train.gallery.cli:gallery", "Teaching examples: what a memory is for."),
}
EXTRAS = dict.fromkeys(("train", "export", "adopt", "evaluate", "gallery"), "train")


class Andon(click.Group):
    """A group that loads its commands by name and prints our errors as sentences."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order of the work, not of the alphabet."""
        return list(LAZY)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Loads a command."""
        lazy = LAZY.get(cmd_name)
        if lazy is None:
            return None
        module, _, name = lazy.place.partition(":")
        try:
            command: click.Command = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get(cmd_name)
            if extra is None:
                raise
            raise click.ClickException(
                f"`andon {cmd_name}` needs {error.name}, which a gateway does not have; "
                f"on a workstation: pip install 'andon[{extra}]'"
            ) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Lists the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in LAZY.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Runs a command; an error of ours becomes one message and exit code 1."""
        try:
            return super().invoke(ctx)
        except AndonError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Andon, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="andon")
def main() -> None:
    """Andon lights the lamp over a machine that is not well.

    Train a recurrent detector on a machine's healthy history, export it as one ONNX file, and run
    it beside the machine on what comes in over MQTT.

    Start with: andon demo
    """
