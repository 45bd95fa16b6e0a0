"""The `unified` program: all commands, and how they are called."""

import sys

import unified.cli.convert  # adds its commands
import unified.cli.evaluate  # adds its commands
import unified.cli.export  # adds its commands
import unified.cli.fold  # adds its commands
import unified.cli.predict  # adds its commands
import unified.cli.report  # adds its commands
import unified.cli.shards  # adds its commands
import unified.cli.tokenizer  # noqa: F401 - adds its commands
from unified.cli.app import call
from unified.cli.ends import guarded
from unified.cli.train import train
from unified.core.version import __version__


def main() -> None:
    """The `unified` command."""
    if sys.argv[1:2] == ["train"]:
        train(sys.argv[2:])
    else:
        guarded(_command, sys.argv[1:])


def _command(arguments: list[str]) -> None:
    if arguments in (["--version"], ["-V"]):
        sys.stdout.write(f"unified {__version__}\n")
        return
    if arguments[:1] == ["help"]:  # `unified help eval` is a habit from other commands
        arguments = [*arguments[1:], "--help"]
    description = "Train, evaluate and share generalist perception models. `unified --version` tells the version."
    call(arguments, description)
