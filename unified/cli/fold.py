"""`unified fold`: a model with experts as an exact dense one."""

from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from unified.cli.app import command
from unified.core import consent
from unified.core.errors import RecipeError, say


@command("fold")
def fold(
    model: Annotated[str, Positional, arg(metavar="MODEL")],
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    /,
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK …")] = (),
    rows: Annotated[tuple[str, ...], arg(metavar="KEY …")] = (),
    keep_experts: bool = False,
    allow_commands: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Turn a model with conditional experts into an exact dense one for some kinds of tokens.

    Example: unified fold runs/moe out/captioner --tasks caption

    For routers that look at what a token is, not at its state: attribute, task, modality, hash. What is written is
    loaded again and compared with the original; without --tasks and --rows it serves all tasks of the model.

    Args:
        model: A hub name (org/name, org/name@revision), an exported folder, or a run (its newest complete checkpoint).
        out: Folder to write; it appears complete or not at all.
        tasks: Tasks of the model's recipe that the folded model is for.
        rows: Or the rows themselves: attribute bits such as 10011000, task families, or modalities.
        keep_experts: Write the model as it is, with all its experts, as `unified export` does for a run.
        allow_commands: Let the address be fetched that a run names for its checkpoints; look at it first.
    """
    from unified.hub import fold as folding

    if keep_experts and (tasks or rows):
        raise RecipeError("--keep-experts: writes the whole model; leave out --tasks and --rows")
    with consent.allow_commands(None if allow_commands else ()):
        if keep_experts:
            say(f"{out}: {folding.export_with_experts(model, out)}, with all experts")
            return
        found = folding.fold(model, out, tasks=tasks, rows=rows)
    say("\n".join([*found.lines(), f"written to {out}"]))
