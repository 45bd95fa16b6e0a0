"""The front doors that inputs are sent through; each makes something whole, damages a copy of it, and reads that."""

import random
from abc import ABC, abstractmethod
from pathlib import Path


class Door(ABC):
    """A kind of input."""

    name: str
    inputs: int
    """How many are tried."""

    @abstractmethod
    def prepare(self, whole: Path) -> None:
        """Write into the new folder `whole` what is damaged later, and read it once, so that the process is warm."""

    @abstractmethod
    def damage(self, copy: Path, draw: random.Random) -> str:
        """Damage a copy of what was prepared; returns in a few words what was done."""

    @abstractmethod
    def enter(self, copy: Path, draw: random.Random) -> bool:
        """Read a copy as people do; returns whether what was read is right."""


def files(folder: Path, *suffixes: str) -> list[Path]:
    """The files below a folder with some suffixes (default: all), in order."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and (not suffixes or p.name.endswith(suffixes)))
