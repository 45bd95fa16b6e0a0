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
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from unified.config.recipe import Recipe
from unified.core.atomic_files import reason, replace_file
from unified.core.errors import UserError
from unified.core.log import Lines, logger
from unified.core.paths import PACKAGE
from unified.core.version import __version__
from unified.model.config import UnifiedConfig
from unified.train.monitor.recipe_diff import check_network, check_resume, plain
from unified.train.monitor.records import (
    FORMAT,
    RECIPE_END,
    RECIPE_FORMAT,
    RECIPE_HEADER,
    put_aside,
    read_metrics,
    read_recipe,
    read_starts,
)

PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "tokenizers", "safetensors", "numpy")


class RunFolder:
    """A run folder held by this process (rank 0 of a run) until it is closed or the process ends."""

    def __init__(self, path: Path | str) -> None:
        """Make the folder where there is none; `UserError` names the process that holds it already."""
        self.path = Path(path)
        with self._writable():
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock, 1000).decode(errors="replace") or "another process"
            os.close(self._lock)
            raise UserError(
                f"{self.path}: in use by {holder}. Wait for it, stop it, or train into another folder with --out"
            ) from None
        try:
            with self._writable():
                os.ftruncate(self._lock, 0)
                os.write(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
                log = self.path / "log.txt"
                if log.exists() and not (log.is_file() or log.is_char_device()):
                    _keep_damaged(log)  # a pipe would be waited for
                self._log = _LogFile(log, encoding="utf-8")
        except UserError:
            os.close(self._lock)
            raise
        _held.add(self)
        self._elapsed_before, self._began = 0.0, time.monotonic()
        self._log.setFormatter(Lines("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(self._log)

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.path}: expected a folder that can be written to, got {reason(error)}") from error

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
        """Refuse to begin anew where records tell of checkpoints that are gone; `UserError`."""
        path, stored = self.path / "metrics.jsonl", self.stored_recipe()
        last = max((record["step"] for record in read_metrics(path)), default=0)
        resumed = max((start["step"] for start in read_starts(self.path / "versions.json") or ()), default=0)
        saved = min(one.train.save_every for one in (recipe, stored) if one is not None)
        if resumed or last >= saved:
            raise UserError(
                f"{path}: expected a checkpoint, as there are records of {max(last, resumed):,} steps, got none. Hint: "
                "put the checkpoints back, move these records away, or train into another folder with --out"
            )
        if last:
            logger.warning("%s: records of %d steps without a checkpoint; the run begins anew", path, last)

    def start(self, recipe: Recipe, step: int) -> None:
        """Begin at `step`, 0 for a new run: write the recipe, note the versions, cut the metrics there."""
        header = f"{RECIPE_HEADER}{RECIPE_FORMAT}; resolved: every default is written out\n"
        content = yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True, width=120)
        replace_file(self.path / "recipe.yaml", header + content + RECIPE_END)
        self._note_versions(step)
        self._cut_metrics(step)

    def stored_recipe(self) -> Recipe | None:
        """The recipe that the run was last started with."""
        return read_recipe(self.path / "recipe.yaml")

    def _note_versions(self, step: int) -> None:
        path = self.path / "versions.json"
        starts = read_starts(path) if step > 0 else []
        if starts is None or (path.exists() and not path.is_file()):
            _keep_damaged(path)
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
            raise UserError(
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
        before = list(read_metrics(path, damaged))
        kept = [record for record in before if record["step"] <= step] if step > 0 else []
        if damaged:
            _keep_damaged(path)
        elif step == 0 and before:
            logger.warning("%s: kept as %s; the run begins anew", path, put_aside(path, "before").name)
        replace_file(path, "".join(json.dumps(record) + "\n" for record in [{"format": FORMAT}, *kept]))
        elapsed = kept[-1].get("elapsed_seconds") if kept else None
        self._elapsed_before = float(elapsed) if isinstance(elapsed, int | float) else 0.0
        self._began = time.monotonic()


class _LogFile(logging.FileHandler):
    """Says once, and goes on, where the log cannot be written; training need not end for it."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging calls it so
        self._tell()

    def close(self) -> None:
        """Close the file; what it still held may be lost, the lock of the run folder may not."""
        try:
            super().close()
        except OSError:
            self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            sys.stderr.write(f"{self.baseFilename}: {sys.exc_info()[1]}; the log goes on without what is missing\n")


_held: "weakref.WeakSet[RunFolder]" = weakref.WeakSet()  # a forked process cannot know otherwise what it inherited


def _forget_all() -> None:
    for folder in list(_held):
        folder.forget_in_child()
    _held.clear()


os.register_at_fork(after_in_child=_forget_all)


def _keep_damaged(path: Path) -> None:
    """Put a damaged note aside: no training ends for it."""
    logger.warning("%s: damaged; kept as %s, and the run goes on", path, put_aside(path).name)


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
