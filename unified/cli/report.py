"""`unified report …`: figures that explain a model, each with its numbers as JSON."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from unified.cli.app import command, group
from unified.core import consent

group("report", "Figures that explain a model, with their numbers as JSON.")


@command("report interference")
def interference(
    model: Annotated[str, Positional, arg(metavar="MODEL")],
    /,
    data: str | None = None,
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK …")] = (),
    layers: Annotated[tuple[int, ...], arg(metavar="L …")] = (),
    linear: Literal["down", "up", "qkv", "out"] = "down",
    batches: int = 16,
    seed: int = 0,
    against: Annotated[str | None, arg(metavar="MODEL2")] = None,
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    allow_commands: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Measure how the gradients of each task would change the losses of the others.

    Writes interference.json and interference.png. With --against: that model, this one, and the difference.

    Example: unified report interference runs/quickstart_moe --against runs/quickstart --batches 32

    Args:
        model: A run (its newest complete checkpoint), an exported folder, or a hub name.
        data: A recipe whose tasks and data are used; default: that of the run.
        tasks: Some of the recipe's tasks; default: all.
        layers: Numbers of layers; default: all.
        linear: Which weights' gradients: down and up of the MLP, qkv and out of the attention.
        batches: Gradients of each task, at least 2.
        seed: Which samples, augmentations and hidden words.
        against: A second model on the same batches, such as one before, or without experts.
        out: Folder to write; default: reports in the run's folder, or here.
        allow_commands: Let `pipe:` commands of the run's recipe run, and addresses in it be fetched; read them first.
            Those of --data always may.
    """
    from unified.reports.experts.commands import Ask, interference_command

    ask = Ask(linear=linear, layers=layers, tasks=tasks, batches=batches, seed=seed)
    with consent.allow_commands(None if allow_commands else ()):
        interference_command(model, ask, data=data, against=against, out=out)


@command("report routing")
def routing(
    model: Annotated[str, Positional, arg(metavar="MODEL")],
    /,
    data: str | None = None,
    batches: int = 16,
    seed: int = 0,
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    allow_commands: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Show which experts the routers of a model choose, and whether they have collapsed.

    Writes routing.json and routing.png. Routers that do not look at the data (attribute, task, modality, hash) are
    shown as the table of their gates; choices of the others (token, context) are counted on batches of each task.

    Example: unified report routing runs/quickstart_moe

    Args:
        model: A run (its newest complete checkpoint), an exported folder, or a hub name.
        data: A recipe whose tasks (and data, where choices are counted) are used; default: those of the model.
        batches: Batches of each task to count choices on.
        seed: Which samples, augmentations and hidden words those are.
        out: Folder to write; default: reports in the run's folder, or here.
        allow_commands: Let `pipe:` commands of the run's recipe run, and addresses in it be fetched; read them first.
            Those of --data always may.
    """
    from unified.reports.experts.commands import routing_command

    with consent.allow_commands(None if allow_commands else ()):
        routing_command(model, data=data, batches=batches, seed=seed, out=out)


@command("report run")
def run(
    path: Annotated[Path, Positional, arg(metavar="RUN")],
    /,
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    allow_commands: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Draw the curves of a run, and say in words what is wrong with it; also while it is still training.

    Looks for: data-bound training, spikes, losses that do not fall, idle or collapsed experts, falling speed, bad
    samples, resumes, numbers that are not finite. Writes run.html (one file, with the figure), run.png and run.json.

    Example: unified report run runs/quickstart_moe

    Args:
        path: The folder of a run.
        out: Folder to write; default: reports in the run's folder.
        allow_commands: Let the address of its checkpoints be asked for how many samples were seen.
    """
    from unified.reports.run.report import run_command

    with consent.allow_commands(None if allow_commands else ()):
        run_command(path, out)
