"""`unified convert`: checkpoints of other code bases, both ways."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from unified.cli.app import command, group
from unified.core import consent
from unified.core.errors import RecipeError, say

group("convert", "Read and write checkpoints of other code bases.")


@command("convert uni-perceiver")
def convert_uni_perceiver(
    source: Annotated[str, Positional, arg(metavar="SOURCE")],
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    /,
    reverse: bool = False,
    heads: int | None = None,
    tokenizer: Path | None = None,
    position_scale: float | None = None,
    fold_type_embedding: Literal["auto", "yes", "no"] = "auto",
    allow_commands: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Convert a checkpoint of Uni-Perceiver or Uni-Perceiver-MoE to a folder for `unified.load`, or back.

    Example: unified convert uni-perceiver uni-perceiver-base.pth out/base --tokenizer bpe_simple_vocab_16e6.txt.gz

    Back: unified convert uni-perceiver out/base base.pth --reverse

    Args:
        source: The .pth of the published code, or of the code before it. With --reverse a folder, hub name or run.
        out: Folder to write; it appears complete or not at all. With --reverse a file.
        reverse: Write an official checkpoint from a model of this package.
        heads: Attention heads, which leave no trace in a checkpoint; needed for widths that are not published.
        tokenizer: CLIP's vocabulary: the merges of the published code, or a tokenizer.json. Without it the model takes
            ids but no words.
        position_scale: Scale of the fixed positions of patches; found by comparison where it is not given.
        fold_type_embedding: Add the image's type embedding to the bias of its projection. auto: as the authors' tools,
            for older files without experts alone.
        allow_commands: Let the address be fetched that a run names for its checkpoints; look at it first.
    """
    if reverse:
        from unified.hub.uni_perceiver.from_hub import revert

        given = {"--heads": heads, "--tokenizer": tokenizer, "--position-scale": position_scale}
        unused = [flag for flag, value in given.items() if value is not None]
        unused += ["--fold-type-embedding"] if fold_type_embedding != "auto" else []
        if unused:
            raise RecipeError(f"{', '.join(unused)}: not with --reverse, which takes everything from the model")
        with consent.allow_commands(None if allow_commands else ()):
            lines = revert(source, out)
    else:
        from unified.hub.uni_perceiver.to_hub import convert

        fold = {"auto": None, "yes": True, "no": False}[fold_type_embedding]
        options = {"heads": heads, "fold": fold, "position_scale": position_scale, "tokenizer": tokenizer}
        lines = convert(Path(source), out, **options).lines()  # type: ignore[arg-type]
    say("\n".join(lines))
