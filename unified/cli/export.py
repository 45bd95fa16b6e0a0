"""`unified export` and `unified push`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

import unified.cli.convert  # adds its commands
import unified.cli.fold  # adds its commands
import unified.cli.predict  # adds its commands
import unified.cli.report  # noqa: F401 - adds its commands
from unified.cli.app import command
from unified.core import consent
from unified.core.errors import RecipeError, say


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
    from unified.hub.export import MAX_SHARD_SIZE
    from unified.hub.export import export as write

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
    from unified.hub import publish

    if private and public:
        raise RecipeError("--private and --public exclude each other; give one of them")
    done = publish.push(folder, repository, private=True if private else False if public else None)
    say(
        f"{done.url} ({'private' if done.private else 'public'})\ncommit {done.commit}\n"
        f'load it with unified.load("{repository}")'
    )
