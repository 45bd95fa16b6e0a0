"""The commands for people; each one's `--help` is complete and has an example."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

import unified.cli.convert  # adds its commands
import unified.cli.fold  # adds its commands
import unified.cli.predict  # adds its commands
import unified.cli.report  # noqa: F401 - adds its commands
from unified import __version__
from unified.cli.app import call, command, group, make_ready
from unified.cli.ends import guarded
from unified.config import RecipeError
from unified.core import consent
from unified.core.printed import quoted, say

group("shards", "Build, look at, check and index shards.")
group("tokenizer", "Train tokenizers.")

TRAIN_HELP = """usage: python train.py RECIPE [--out RUN] [--dry-run] [--FLAG VALUE ...]    (= unified train RECIPE ...)

Pretrain, fine-tune or continue a run. RECIPE is a YAML file, or a name in recipes/.
A run that was stopped goes on from its newest complete checkpoint when the same command is given again.

  --out RUN     the run's folder; default runs/<name of the recipe>
  --allow-commands  let `pipe:` commands of the specs in `evaluate` run, and addresses that the run of `start.model`
                names be fetched; those of the recipe itself always may
  --dry-run     print the resolved recipe, parameters, work and memory of a step, the first steps and what weights
                it starts with, and stop; needs no data and starts no command. --processes N: as if on so many
  --help        with a RECIPE: every flag with the value that the recipe gives it

Several processes: torchrun --nproc-per-node N train.py RECIPE; with DeepSpeed: --engine.kind deepspeed.
recipes/launch has settings of ZeRO, and scripts for one machine and for many.

example: python train.py recipes/quickstart.yaml --optim.lr 1e-3 --max-steps 200 --out runs/try
"""


def train(arguments: Sequence[str] | None = None) -> None:
    """`train.py`: run a recipe."""
    guarded(_train, list(sys.argv[1:] if arguments is None else arguments))


def _train(arguments: list[str]) -> None:
    _, arguments = _take(
        arguments, "--local_rank", ""
    )  # the `deepspeed` launcher adds it; the environment says as much
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(TRAIN_HELP)
        if not arguments:
            raise RecipeError("train.py: expected RECIPE, got nothing. Hint: quickstart is one")
        sys.exit(0)
    if arguments[0].startswith("-"):
        raise RecipeError(f"train.py: expected RECIPE before all flags, got {quoted(arguments[0])}. Hint: --help")
    from unified.cli.flags import with_flags
    from unified.config import build, read_yaml
    from unified.paths import find
    from unified.recipe import Recipe

    name, *rest = arguments
    rest = [_OWN.get(flag, flag) for flag in rest]
    path = find("recipes", name, ".yaml")
    out, rest = _take(rest, "--out", f"runs/{path.stem}")
    dry, allow = "--dry-run" in rest, consent.FLAG in rest
    processes, rest = _take(rest, "--processes", "")
    recipe = build(Recipe, read_yaml(path), path.name)
    flags = [flag for flag in rest if flag not in ("--dry-run", consent.FLAG)]
    recipe = with_flags(recipe, flags, prog=f"train.py {name}")
    make_ready()
    from unified.train.loop import run
    from unified.train.plan_text import dry_run

    if processes and not dry:
        raise RecipeError("--processes goes with --dry-run; a run has those that torchrun starts")
    with consent.allow_commands(None if allow else ()):
        if dry:
            dry_run(recipe, _whole(processes, "--processes") if processes else None)
        else:
            run(recipe, Path(out))


_OWN = {"--dry_run": "--dry-run", "--allow_commands": consent.FLAG}
"""Flags as people also write them."""


def _whole(text: str, flag: str) -> int:
    if not text.isdecimal():
        raise RecipeError(f"{flag}: expected int, found {text!r}")
    if int(text) < 1:
        raise RecipeError(f"{flag}: expected at least 1, found {text}")
    return int(text)


def _take(arguments: list[str], flag: str, default: str) -> tuple[str, list[str]]:
    """The value of one flag, and the arguments without it."""
    rest = list(arguments)
    for index, argument in enumerate(arguments):
        if argument == flag:
            if index + 1 == len(arguments) or arguments[index + 1].startswith("--"):
                raise RecipeError(f"{flag}: a value must follow")
            return arguments[index + 1], rest[:index] + rest[index + 2 :]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}="), rest[:index] + rest[index + 1 :]
    return default, rest


@command("shards build")
def shards_build(
    source: Annotated[str, Positional, arg(metavar="SOURCE")],
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    /,
    kind: Literal[
        "imagefolder",
        "pairs",
        "table",
        "coco",
        "yolo",
        "voc",
        "masks",
        "depth",
        "keypoints",
        "attributes",
        "boundaries",
    ]
    | None = None,
    columns: str | None = None,
    classes: str | None = None,
    ignore: int | None = None,
    depth_unit: float | None = None,
    crops: str | None = None,
    held_out: float | None = None,
    held_out_by: str = "key",
    samples_per_shard: int = 10_000,
    skip_existing: bool = False,
    skip_bad: bool = False,
) -> None:
    """Turn raw data into verified shards with index and manifest.

    Example: unified shards build photos/ data/photos --kind imagefolder --held-out 0.2

    Args:
        source: glyphs, digits, documentation, computer_modern (made from what the dependencies bundle), a folder or a
            table.
        out: Folder to write; it appears complete or not at all.
        kind: imagefolder: a folder a class; pairs: images with same-named .txt; table: CSV, TSV or JSONL. Annotated
            pictures: coco, yolo, voc, masks, depth, keypoints, attributes, boundaries (docs/data-format.md).
        columns: For tables, table column=sample column: image=path,title=txt; for attributes, what each column is:
            file=path,gender=attribute,person=identity.
        classes: For masks and voc, class names in the order of their numbers, a,b,c, or a file with a name a line.
        ignore: For masks and yolo, the number in index masks that means no label.
        depth_unit: For depth, metres a step of the depth pictures; default 0.001.
        crops: For coco, a class whose objects with joints become samples of their own, cut out (top-down poses).
        held_out: The fraction that goes to OUT/test, and the rest to OUT/train; of each class where samples have one
            class (imagefolder, table with cls).
        held_out_by: key: by a hash of each key; end: the last in sorted order, for frames of a video; of a table, a
            column whose equal values stay in one part; of annotated pictures, identity: all pictures of a fraction of
            the identities.
        samples_per_shard: Samples of one tar.
        skip_existing: Leave a complete folder as it is.
        skip_bad: Leave unreadable samples out, and list them in the manifest.
    """
    from unified.data import commands
    from unified.data.build.dense import Options

    options = Options(
        samples_per_shard=samples_per_shard,
        skip_bad=skip_bad,
        crops=crops,
        held_out=held_out,
        held_out_by=held_out_by,
        classes=classes,
        ignore=ignore,
        depth_unit=depth_unit,
        columns=columns,
    )
    commands.build(source, out, kind=kind, options=options, skip_existing=skip_existing)


@command("shards inspect")
def shards_inspect(
    path: Annotated[str, Positional, arg(metavar="PATH")],
    /,
    count: int = 32,
    out: Path = Path("contact_sheet.png"),
) -> None:
    """Show decoded samples: a table of text, and a contact sheet as PNG.

    Example: unified shards inspect data/glyphs/train --count 25

    Args:
        path: A folder of shards, or one shard.
        count: Samples to show, spread over the data.
        out: The PNG.
    """
    from unified.data import commands

    commands.inspect(path, out, count=count)


@command("shards verify")
def shards_verify(path: Annotated[str, Positional, arg(metavar="PATH")], /) -> None:
    """Recompute hashes and decode everything; name shard, key and column of what is wrong.

    Example: unified shards verify data/glyphs/train

    Args:
        path: A folder of shards.
    """
    from unified.data import commands

    commands.verify(path)


@command("shards index")
def shards_index(path: Annotated[str, Positional, arg(metavar="PATH")], /) -> None:
    """Write the index beside each shard anew.

    Example: unified shards index downloads/cc3m

    Args:
        path: A folder of shards, or one shard.
    """
    from unified.data import commands

    commands.index(path)


@command("tokenizer train")
def tokenizer_train(
    corpus_and_out: Annotated[tuple[Path, ...], Positional, arg(metavar="CORPUS… OUT")],
    /,
    vocab_size: int = 2048,
) -> None:
    """Train a byte-level BPE tokenizer for text.

    Example: unified tokenizer train data/glyphs/train data/documentation/train tokenizers/mine --vocab-size 4096

    Args:
        corpus_and_out: Text files or folders of shards (their txt column), and last the folder to write.
        vocab_size: Entries, special tokens included.
    """
    from unified.data.tokenizer_command import train_command

    if len(corpus_and_out) < 2:
        raise RecipeError("tokenizer train: give at least one corpus, and the folder to write")
    train_command(corpus_and_out[:-1], corpus_and_out[-1], vocabulary_size=vocab_size)


@command("eval")
def evaluate(
    model: Annotated[str, Positional, arg(metavar="MODEL")],
    specs: Annotated[tuple[str, ...], Positional, arg(metavar="SPEC [SPEC ...]")],
    /,
    shots: Annotated[tuple[int, ...], arg(metavar="K …")] = (0,),
    seeds: int = 5,
    out: Path | None = None,
    allow_commands: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Evaluate a model zero-shot, with k shots and with probes; every number comes with its error.

    Example: unified eval runs/quickstart digits data/mine --shots 0 1 5 --seeds 5 --out results.json

    Args:
        model: A hub name (org/name, org/name@revision), an exported folder, or a run (its newest complete checkpoint).
        specs: Names in recipes/eval, YAML files, or data folders.
        shots: Labelled examples a class; 0 is zero-shot.
        seeds: Subsets that each k-shot result is averaged over.
        out: Results as JSON, with every item for `unified compare`.
        allow_commands: Let `pipe:` commands of the specs run, and addresses that the folder of a run names be fetched
            (`train.checkpoints`); read them first.
    """
    from unified.evaluate.commands import eval_command

    with consent.allow_commands(None if allow_commands else ()):
        eval_command(model, specs, shots=shots, seeds=seeds, out=out)


@command("compare")
def compare(
    a: Annotated[Path, Positional, arg(metavar="A")],
    b: Annotated[Path, Positional, arg(metavar="B")],
    /,
) -> None:
    """Compare two results files on the same items, with paired intervals and tests.

    Example: unified compare runs/a/results.json runs/b/results.json

    Args:
        a: Results of `unified eval`.
        b: Results of the other model on the same items.
    """
    from unified.evaluate.commands import compare_command

    compare_command(a, b)


@command("export")
def export(
    run: Annotated[Path, Positional, arg(metavar="RUN")],
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    /,
    results: Path | None = None,
    max_shard_size: str | None = None,
    license: Annotated[str | None, arg(metavar="NAME")] = None,
    language: Annotated[tuple[str, ...], arg(metavar="CODE …")] = ("en",),
    allow_commands: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Write a run's newest complete checkpoint as a Hugging Face folder with a model card.

    Example: unified export runs/quickstart out/quickstart

    Args:
        run: A run's folder.
        out: Folder to write.
        results: Results of `unified eval` for the card; default results.json of the run, where there is one.
        max_shard_size: Largest file of weights, such as 500MB, and the memory that is used; default 5GB.
        license: The hub's short name of the model's licence, such as apache-2.0, for the card; default unknown.
        language: Codes of the languages of its texts (ISO 639), for the card.
        allow_commands: Let the address be fetched that a run names for its checkpoints; look at it first.
    """
    from unified.export import MAX_SHARD_SIZE
    from unified.export import export as write

    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out}: a file is there already; name a folder to write")
    beside = run / "results.json"
    results = results or (beside if beside.is_file() else None)
    size = max_shard_size or MAX_SHARD_SIZE
    with consent.allow_commands(None if allow_commands else ()):
        write(run, out, results=results, max_shard_size=size, license_name=license, language=language)


@command("push")
def push(
    folder: Annotated[Path, Positional, arg(metavar="FOLDER")],
    repository: Annotated[str, Positional, arg(metavar="REPOSITORY")],
    /,
    private: Annotated[bool, FlagCreatePairsOff] = False,
    public: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Upload an exported folder to the Hugging Face hub, and print its address.

    Example: unified push out/quickstart my-org/quickstart --public

    Args:
        folder: What `unified export` wrote.
        repository: org/name.
        private: For you and your organisation alone, as new repositories are.
        public: For everybody. A repository that is there already stays as it is without either.
    """
    from unified import publish

    if private and public:
        raise RecipeError("--private and --public exclude each other; give one of them")
    done = publish.push(folder, repository, private=True if private else False if public else None)
    say(
        f"{done.url} ({'private' if done.private else 'public'})\ncommit {done.commit}\n"
        f'load it with unified.load("{repository}")'
    )


@command("train")
def train_pointer() -> None:
    """Pretrain a recipe: `unified train RECIPE [--flags]`, the same as `python train.py RECIPE`."""
    sys.stdout.write(TRAIN_HELP)


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
