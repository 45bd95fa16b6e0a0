"""An object store on a folder of this machine, which takes so many bytes and then fails."""

import shutil
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class FailingStore(LocalFileSystem):
    """`failing:///folder`; like stores of the net it cannot rename, and its errors are not those of the system."""

    protocol = "failing"
    left: float = float("inf")
    """Bytes that it still takes; what is beyond is lost, as in a connection that breaks."""

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        content = Path(lpath).read_bytes()
        Path(self._strip_protocol(rpath)).write_bytes(content[: int(min(FailingStore.left, len(content)))])
        FailingStore.left -= len(content)
        if FailingStore.left < 0:
            raise RuntimeError("the connection was reset")

    def mv(self, *_: Any, **__: Any) -> None:
        raise AssertionError("stores cannot rename, so nothing may ask them to")

    def rm(self, path: str, **_: Any) -> None:
        for manifest in Path(self._strip_protocol(path)).glob("manifest.json"):
            raise AssertionError(f"{manifest} must go before the files do")
        shutil.rmtree(self._strip_protocol(path))


def register() -> None:
    fsspec.register_implementation("failing", FailingStore, clobber=True)
