"""What a machine without network lacks: wheels of the pinned packages, and a part of the quickstart's shards.

`python -m benchmarks.gpu.bundle FOLDER --pythons 3.11 3.12` fills the folder (`make gpu-bundle`). `gpu.sh` unpacks what
fits the Python that it runs under. Torch, numpy, scipy and scikit-learn are the machine's own: they are too large.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "gpu-bundle"
LIMIT = 60 * 2**20
SHARDS = "quickstart.zip"
PYTHONS = ("3.11", "3.12")
PACKAGES = (
    *("transformers", "huggingface_hub", "tokenizers", "safetensors", "regex", "PyYAML", "tqdm", "packaging"),
    *("filelock", "typing_extensions", "fsspec", "httpx2", "httpcore2", "h11", "anyio", "idna", "truststore"),
    *("typer", "click", "rich", "shellingham", "markdown-it-py", "mdurl", "Pygments", "annotated-doc"),
    *("accelerate", "psutil"),
    *("jaxtyping", "wadler_lindig", "pillow", "simplejpeg", "pycocotools"),
    *("deepspeed", "hjson", "msgpack", "pydantic", "pydantic_core", "annotated-types", "typing-inspection"),
    *("py-cpuinfo", "einops"),
)  # fmt: skip
"""What the sections import beside torch, numpy, scipy and scikit-learn, and what those need in turn."""
SOURCE = ("deepspeed",)
"""Packages without wheels, which are built here; pure Python, as operators are compiled where they are used."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64")
QUICKSTART = (
    "glyphs/scripts.yaml",
    "glyphs/train/ascii-*.tar*",
    "glyphs/train/glyphs-00000.tar*",
    "documentation/train/*.tar*",
)
"""Of the folder `data`: every fourth glyph is enough for some steps."""


def fill(folder: Path, pythons: Sequence[str]) -> None:
    """Download and build into a new folder, and say what it holds; ends with an error where it is too large."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pinned = _pinned()
    built = [pinned[name.lower()] for name in SOURCE]
    wheels = [pinned[name.lower()] for name in PACKAGES if name not in SOURCE]
    _pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, *built)
    for python in pythons:
        platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
        asked = ["--no-deps", "--only-binary=:all:", "--python-version", python, *platforms]
        _pip("download", *asked, "-d", folder, *wheels)
    missing = _pack_shards(folder / SHARDS)
    files = sorted(folder.iterdir(), key=lambda path: path.name.lower())
    for path in files:
        print(f"{path.stat().st_size / 2**20:7.2f} MiB  {path.name}")
    size = sum(path.stat().st_size for path in files)
    print(f"{size / 2**20:7.2f} MiB in {folder}, of {LIMIT / 2**20:.0f} allowed")
    if missing:
        print(f"Without shards of the quickstart, as there is no {missing}: `make quickstart` builds them")
    if size > LIMIT:
        sys.exit(f"{folder}: expected at most {LIMIT} bytes, got {size}. Hint: fewer --pythons")


def _pinned() -> dict[str, str]:
    """The line of constraints.txt of each package, by its name in lower case."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {line.partition("==")[0].lower(): line for line in lines if "==" in line}


def _pip(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *map(str, arguments)], check=True)


def _pack_shards(path: Path) -> str:
    """Pack the shards that a short quickstart reads; returns what is not there."""
    data = ROOT / "data"
    for pattern in QUICKSTART:
        if not list(data.glob(pattern)):
            return f"data/{pattern}"
    with ZipFile(path, "w", ZIP_DEFLATED, compresslevel=9) as packed:
        for found in (file for pattern in QUICKSTART for file in sorted(data.glob(pattern))):
            packed.write(found, found.relative_to(data))
    return ""


def unpack(folder: Path, into: Path) -> tuple[Path, Path | None]:
    """The packages that fit this Python, unpacked, and the shards; empty where there is no bundle."""
    packages, shards = into / "packages", into / "shards"
    packages.mkdir()
    for wheel in sorted(folder.glob("*.whl")):
        if fits(wheel.name):
            with ZipFile(wheel) as packed:
                packed.extractall(packages)
    if not (folder / SHARDS).is_file():
        return packages, None
    with ZipFile(folder / SHARDS) as packed:
        packed.extractall(shards)
    return packages, shards


def fits(wheel: str, running: tuple[int, int] = sys.version_info[:2]) -> bool:
    """Whether a wheel of the bundle is for a version of CPython, as its name says (PEP 427)."""
    *_, pythons, abi, _ = wheel.removesuffix(".whl").split("-")
    return any(_fits(python, abi, running) for python in pythons.split("."))


def _fits(python: str, abi: str, running: tuple[int, int]) -> bool:
    found = re.fullmatch(r"(?:cp|py)(\d)(\d*)", python)
    if found is None:
        return False
    version = int(found[1]), int(found[2] or 0)
    return version <= running if abi in ("none", "abi3") and version[0] == running[0] else version == running


def main() -> None:
    """Fill a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, help="versions of the machine's Python")
    told = parser.parse_args()
    fill(told.folder, told.pythons)


if __name__ == "__main__":
    main()
