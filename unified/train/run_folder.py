"""The folder of a run: one process at a time, the resolved recipe, versions, metrics and the log.

runs/x/
    recipe.yaml        the recipe with every default written out
    versions.json      what each start of the run ran on
    metrics.jsonl      one record a line; with train.log_every 1 it reads as one uninterrupted run however often it
                       was resumed, otherwise the record after a resume covers the steps since then
    log.txt            what was printed
    checkpoints/       see unified/checkpoint; train.checkpoints names another place
    model/             configuration and tokenizers of the model, without weights, and the record of its training data
"""

import fcntl
import json
import logging
import os
import platform
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from unified import __version__
from unified.config import build, read_yaml
from unified.configuration import UnifiedConfig
from unified.core.atomic_files import replace_file
from unified.core.json_files import parse_json, read_json
from unified.core.locations import shown
from unified.core.printed import escaped
from unified.errors import DataError, UserError
from unified.log import logger
from unified.paths import PACKAGE
from unified.recipe import Recipe
from unified.train.recipe_diff import check_network, check_resume, plain

FORMAT = 1
RECIPE_HEADER = "# unified recipe, format "
PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "tokenizers", "safetensors", "numpy")


class RunFolderError(UserError):
    """A run folder cannot be used; the message says who uses it or which file is wrong."""


class RunFolder:
    """A run folder held by this process (rank 0 of a run) until it is closed or the process ends."""

    def __init__(self, path: Path | str) -> None:
        """Make the folder where there is none; `RunFolderError` names the process that holds it already."""
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise RunFolderError(f"{self.path}: not a folder that can be written to: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock, 1000).decode() or "another process"
            os.close(self._lock)
            raise RunFolderError(
                f"{self.path}: in use by {holder}. Wait for it, stop it, or train into another folder with --out"
            ) from None
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
        _held.add(self)
        self._elapsed_before, self._began = 0.0, time.monotonic()
        self._log = _LogFile(self.path / "log.txt", encoding="utf-8")
        self._log.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(self._log)

    @property
    def model(self) -> Path:
        """Where the model's configuration and tokenizers go."""
        return self.path / "model"

    def close(self) -> None:
        """Let others use the folder."""
        if self in _held:
            _held.discard(self)
            logger.removeHandler(self._log)
            self._log.close()
            os.ftruncate(self._lock, 0)
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self in _held:
            own = isinstance(error, UserError | OSError | KeyboardInterrupt)  # a traceback would say no more
            text = f"the run ends: {error}" if own and str(error) else f"the run ends: {error!r}"
            told = None if own or kind is None else (kind, error, trace)
            self._log.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, text, (), told))
        self.close()

    def forget_in_child(self) -> None:
        """Drop the inherited lock in a forked process: a loader worker that outlives the run must not hold it."""
        os.close(self._lock)

    def check(self, recipe: Recipe, config: UnifiedConfig | None = None) -> None:
        """Refuse to resume with another model than the stored one: a `RecipeError` lists the keys.

        `config` is the model that the recipe makes here, which also depends on what its tokenizers contain. Other
        differences of the recipes are logged. Nothing is written.
        """
        stored = self.stored_recipe()
        if stored is not None:
            check_resume(stored, recipe, self.path / "recipe.yaml")
        if config is not None and (self.model / "config.json").is_file():
            check_network(UnifiedConfig.from_pretrained(self.model), config, self.model / "config.json")

    def check_new(self, recipe: Recipe) -> None:
        """Refuse to begin anew where records tell of checkpoints that are gone; `RunFolderError`."""
        path = self.path / "metrics.jsonl"
        last = max((record["step"] for record in read_metrics(path)), default=0) if path.is_file() else 0
        if last >= recipe.train.save_every:
            raise RunFolderError(
                f"{path}: expected a checkpoint, as there are records of {last:,} steps, got none. Hint: put the "
                "checkpoints back, move these records away, or train into another folder with --out"
            )
        if last:
            logger.warning("%s: records of %d steps without a checkpoint; the run begins anew", path, last)

    def start(self, recipe: Recipe, step: int) -> None:
        """Begin at `step`, 0 for a new run: write the recipe, note the versions, cut the metrics there."""
        header = f"{RECIPE_HEADER}{FORMAT}; resolved: every default is written out\n"
        content = yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True, width=120)
        replace_file(self.path / "recipe.yaml", header + content)
        self._note_versions(step)
        self._cut_metrics(step)

    def stored_recipe(self) -> Recipe | None:
        """The recipe that the run was last started with."""
        return read_recipe(self.path / "recipe.yaml")

    def _note_versions(self, step: int) -> None:
        path = self.path / "versions.json"
        starts = read_starts(path) if step > 0 else []
        if starts is None:
            _put_aside(path)
            starts = []
        now = versions()
        if starts:
            for name, found in now.items():
                before = starts[-1].get(name)
                if before != found:
                    logger.warning("%s: %s was %s at the last start and is %s now", self.path, name, before, found)
        starts.append({"step": step, **now})
        replace_file(path, json.dumps({"format": FORMAT, "starts": starts}, indent=1) + "\n")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record, which has a `step`, to metrics.jsonl; it is there even if the process is killed right after.

        It gets `time`, seconds since 1970 (UTC), and `elapsed_seconds` of training, without the time between two
        starts.
        """
        path = self.path / "metrics.jsonl"
        elapsed = self._elapsed_before + time.monotonic() - self._began
        record = {**record, "time": round(time.time(), 3), "elapsed_seconds": round(elapsed, 3)}
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise RunFolderError(
                f"{path}: could not be written: {error}. Make room on the disk; then the same command goes on from the "
                "last checkpoint"
            ) from error

    def metrics(self) -> list[dict[str, Any]]:
        """All records of metrics.jsonl, in order."""
        return list(read_metrics(self.path / "metrics.jsonl"))

    def _cut_metrics(self, step: int) -> None:
        """Drop the records after `step`, which a killed run wrote after its last checkpoint."""
        path = self.path / "metrics.jsonl"
        damaged: list[str] = []
        kept = [r for r in read_metrics(path, damaged) if r["step"] <= step] if step > 0 and path.is_file() else []
        if damaged:
            _put_aside(path)
        replace_file(path, "".join(json.dumps(record) + "\n" for record in [{"format": FORMAT}, *kept]))
        self._elapsed_before = float(kept[-1].get("elapsed_seconds", 0.0)) if kept else 0.0
        self._began = time.monotonic()


class _Lines(logging.Formatter):
    """Records as they may be printed, also those that come past the logger, with their traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(shown(super().format(record)))


class _LogFile(logging.FileHandler):
    """Says once, and goes on, where the log cannot be written; training need not end for it."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging calls it so
        if not self._told:
            self._told = True
            sys.stderr.write(f"{self.baseFilename}: {sys.exc_info()[1]}; the log goes on without what is missing\n")


_held: "weakref.WeakSet[RunFolder]" = weakref.WeakSet()  # a forked process cannot know otherwise what it inherited


def _forget_all() -> None:
    for folder in list(_held):
        folder.forget_in_child()
    _held.clear()


os.register_at_fork(after_in_child=_forget_all)


def read_metrics(path: Path, damaged: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a metrics.jsonl; a last line that a killed process left unfinished is passed over.

    Args:
        path: The file.
        damaged: Gets a message for each line that is no record; None: they are logged.

    Raises:
        RunFolderError: The file is of a later format.
    """
    lines = path.read_bytes().split(b"\n")
    found: list[str] = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end is empty or unfinished
        try:
            record = parse_json(line, f"{path}:{number}")
            if number == 1 and "format" in record:
                _check_format(path, record["format"])
            elif isinstance(record.get("step"), int):
                yield record
            else:
                found.append(f"{path}:{number}: expected a record with a step")
        except DataError as error:
            found.append(str(error))
    if found and damaged is None:
        logger.warning("%s%s", found[0], f" (and {len(found) - 1} more lines)" if len(found) > 1 else "")
    elif damaged is not None:
        damaged += found


def read_starts(path: Path) -> list[dict[str, Any]] | None:
    """Return what versions.json says of the starts of a run; none without the file, None where it is damaged.

    Raises:
        RunFolderError: The file is of a later format.
    """
    if not path.is_file():
        return []
    try:
        content = read_json(path)
    except DataError as error:
        logger.warning("%s", error)
        return None
    _check_format(path, content.get("format"))
    starts = content.get("starts")
    fits = isinstance(starts, list) and all(isinstance(start, dict) and "step" in start for start in starts)
    return starts if fits else None


def _put_aside(path: Path) -> None:
    """Keep a damaged note beside the one that takes its place: no training ends for it."""
    aside = path.with_name(f"{path.name}.damaged")
    logger.warning("%s: damaged; kept as %s, and the run goes on", path, aside.name)
    path.replace(aside)


def read_recipe(path: Path) -> Recipe | None:
    """The resolved recipe that a run keeps; None where there is no such file."""
    if not path.is_file():
        return None
    first = path.read_text(encoding="utf-8").split("\n", maxsplit=1)[0]
    number = first.removeprefix(RECIPE_HEADER).split(";")[0]
    if first.startswith(RECIPE_HEADER) and number.isdecimal():
        _check_format(path, int(number))
    return build(Recipe, read_yaml(path), str(path))


def versions() -> dict[str, Any]:
    """What this process runs on: Python, packages, machine, and the commit of the code where it is a checkout."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    found["unified"] = __version__
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["git"] = _commit()
    return found


def _commit() -> str | None:
    """The commit of the checkout, with `+` where files were changed since."""
    if not (PACKAGE.parent / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _check_format(path: Path, number: Any) -> None:
    if isinstance(number, int) and number > FORMAT:
        raise RunFolderError(
            f"{path}: format {number}; this version of unified reads up to {FORMAT}. Install a later one"
        )
