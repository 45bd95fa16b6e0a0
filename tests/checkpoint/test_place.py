"""Checkpoints in folders and in object stores: complete or absent in both, whatever fails and wherever it is killed."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import failing_store
import pytest
import torch
from failing_store import FailingStore
from fsspec.implementations.memory import MemoryFileSystem
from torch import Tensor

from unified.checkpoint import Location, listed, load, newest, opened, prune, save, state, verify
from unified.checkpoint.place import Place, Store, place
from unified.core.errors import CheckpointError
from unified.core.seed import torch_generator

KINDS = ("path", "file", "memory", "failing")


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    failing_store.register()
    FailingStore.left = float("inf")
    where = tmp_path / "checkpoints"
    yield {
        "path": where, "file": f"file://{where}", "memory": f"memory://{tmp_path}/run", "failing": f"failing://{where}",
    }[request.param]  # fmt: skip
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def groups(step: int = 1) -> dict[str, dict[str, Tensor]]:
    rng = torch_generator(step, "places")
    weights = {f"w{number}": torch.randn(50, 5, generator=rng) for number in range(4)}
    kinds = {"half": torch.ones(3, dtype=torch.bfloat16), "empty": torch.zeros(0, 2), "flag": torch.tensor([True])}
    return {"weights": {**weights, **kinds}, "steps": {"w0": torch.tensor(float(step))}}


def saved(folder: Location, *steps: int, keep_last: int = 9, keep_every: int | None = None) -> list[Location]:
    return [
        save(
            folder, step, groups(step), {"seen": step}, keep_last=keep_last, keep_every=keep_every, max_file_bytes=2100
        )
        for step in steps
    ]


def equal(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> bool:
    return {g: set(named) for g, named in a.items()} == {g: set(named) for g, named in b.items()} and all(
        torch.equal(tensor, b[g][name]) and tensor.dtype == b[g][name].dtype
        for g, named in a.items()
        for name, tensor in named.items()
    )


def steps(folder: Location) -> list[int]:
    return [int(str(path)[-8:]) for path in listed(folder)]


def rewrite(path: Location, file: str, content: bytes) -> None:
    """Change a file behind the back of the package."""
    at = place(path)
    if isinstance(at, Store):
        at.files.pipe_file(f"{at.root}/{file}", content)
    else:
        (at.path / file).write_bytes(content)


def test_a_checkpoint_comes_back_from_anywhere(folder: Location) -> None:
    assert newest(folder) is None
    first, second = saved(folder, 1, 20)
    assert newest(folder) == second
    assert steps(folder) == [1, 20]
    found = load(second)
    assert (found.step, found.state, state(first)) == (20, {"seen": 20}, {"seen": 1})
    assert equal(found.tensors, groups(20))
    lazy = opened(second, ["weights"]).tensors["weights"]
    assert lazy.nbytes("w3") == 1000
    assert torch.equal(lazy["w3"], groups(20)["weights"]["w3"])


def test_one_tensor_is_read_without_the_others(folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    big = {f"w{number}": torch.full((1000, 1000), float(number)) for number in range(6)}
    path, sizes = save(folder, 1, {"weights": big}, {}, keep_last=1), []
    kind = type(place(folder))
    read = kind.read

    def counted(self: Place, file: str, start: int = 0, end: int | None = None) -> bytearray:
        found = read(self, file, start, end)
        if file.endswith(".safetensors"):
            sizes.append(len(found))
        return found

    monkeypatch.setattr(kind, "read", counted)
    weights = opened(path, hashes=False).tensors["weights"]
    assert sizes == []
    assert torch.equal(weights["w1"], big["w1"])
    assert sum(sizes) < (12e6 if kind is Store else 4.1e6), "a store reads some MB ahead"
    assert all(torch.equal(weights[name], tensor) for name, tensor in big.items())
    assert max(sizes) < 9e6


def test_the_url_says_where_files_are(tmp_path: Path) -> None:
    assert type(place(f"file://{tmp_path}/a b")) is Place
    assert place(f"file://{tmp_path}/a b").location == tmp_path / "a b"
    assert type(place(f"memory://{tmp_path}/a")) is Store
    with pytest.raises(CheckpointError, match=r"nonsense://x: Protocol not known"):
        newest("nonsense://x")


def test_a_changed_cut_or_missing_file_is_named_and_the_one_before_is_taken(
    folder: Location, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = saved(folder, 1, 2)
    name = "weights-00002-of-00002.safetensors"
    whole = bytes(place(second).read(name))
    for content, complaint in (
        (whole[:-1] + bytes([whole[-1] ^ 1]), "has changed since it was written"),
        (whole[:-1], f"has {len(whole) - 1} bytes; expected {len(whole)}"),
    ):
        rewrite(second, name, content)
        with pytest.raises(CheckpointError, match=f"{name} {complaint}.*next older complete checkpoint is {first}"):
            load(second)
        with caplog.at_level(logging.WARNING, logger="unified"):
            assert newest(folder) == first
        assert f"{second} is skipped: {name}" in caplog.text
    saved(folder, 2)  # a damaged one of the same step is replaced
    verify(second, hashes=True)
    with pytest.raises(CheckpointError, match="complete checkpoint with other tensors is there already"):
        save(folder, 2, groups(3), {}, keep_last=1, max_file_bytes=2100)
    saved(folder, 2)
    assert equal(load(second).tensors, groups(2))
    assert steps(folder) == [1, 2]


def test_the_last_ones_are_kept_and_every_nth(folder: Location) -> None:
    saved(folder, *range(2, 21, 2), keep_last=2, keep_every=6)
    assert steps(folder) == [6, 12, 18, 20]
    prune(folder, 1, keep_every=12)
    assert steps(folder) == [12, 20]


def test_an_unfinished_checkpoint_of_a_store_is_none_and_goes_with_the_next(tmp_path: Path) -> None:
    failing_store.register()
    url = f"failing://{tmp_path}/run"
    (killed,) = saved(url, 5)
    (tmp_path / "run" / "step_00000005" / "manifest.json").unlink()
    assert newest(url) is None
    assert listed(url) == []
    with pytest.raises(CheckpointError, match=r"manifest.json is missing"):
        load(killed)
    saved(url, 6)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step_00000006"]


@pytest.mark.parametrize("room", [0, 700, 2500, 4800])
def test_a_store_that_fails_keeps_the_earlier_checkpoint(tmp_path: Path, room: int) -> None:
    failing_store.register()
    url = f"failing://{tmp_path}/run"
    FailingStore.left = float("inf")
    (first,) = saved(url, 1)
    files = json.loads((tmp_path / "run" / "step_00000001" / "manifest.json").read_text())["files"]
    assert sum(entry["bytes"] for entry in files.values()) < 4800, "the last case fails in the manifest"
    FailingStore.left = room
    with pytest.raises(CheckpointError) as caught:
        saved(url, 2, keep_last=1)
    assert "step_00000002: could not be written" in str(caught.value)
    assert "RuntimeError: the connection was reset" in str(caught.value)
    assert f"the newest complete checkpoint is still {first}" in str(caught.value)
    assert "See that the store can be reached" in str(caught.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step_00000001"]
    assert equal(load(first).tensors, groups(1))
    FailingStore.left = float("inf")
    saved(url, 2, keep_last=1)
    assert steps(url) == [2]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import failing_store, torch
from tests.checkpoint.test_place import groups
from unified.checkpoint import Writer, save
from unified.checkpoint.place import Place, Store
torch.set_num_threads(1)
failing_store.register()

def end():
    os.kill(os.getpid(), signal.SIGKILL)

def killing(kind, phase):
    put, publish, written = kind.put, kind.publish, []
    def counted(self, file, write):
        def half(path):
            write(path)
            os.truncate(path, path.stat().st_size // 2)
            end()
        written.append(file)
        if phase == "before files" or (phase == "between files" and len(written) == 2):
            end()
        if phase == "before manifest" and file == "manifest.json":
            end()
        return put(self, file, half if phase == "within a file" and len(written) == 2 else write)
    def published(self, name, *, standing):
        if phase == "before rename":
            end()
        publish(self, name, standing=standing)
    kind.put, kind.publish = counted, published

for case in sys.argv[1:]:
    folder, phase, background = case.split("|")
    save(folder, 1, groups(1), {{}}, keep_last=1)
    child = os.fork()
    if not child:
        killing(Store if "://" in folder else Place, phase)
        tensors = [(group, name, tensor) for group, named in groups(2).items() for name, tensor in named.items()]
        writer = Writer(folder, keep_last=1, background=background == "True")
        writer.save(2, list(groups()), tensors, {{}})
        writer.wait()
        os._exit(3)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, case
"""
PHASES = ("before files", "within a file", "between files", "before manifest", "before rename")


def test_killed_in_any_phase_of_writing_the_previous_checkpoint_is_the_newest(tmp_path: Path) -> None:
    failing_store.register()
    cases = {}
    for kind in ("path", "failing"):
        for phase in PHASES[: None if kind == "path" else -1]:  # a store does not rename
            for background in (False, True):
                where = tmp_path / f"{kind} {phase} {background}"
                cases[str(where) if kind == "path" else f"failing://{where}"] = (where, phase, background)
    script = KILLED.format(tests=str(Path(__file__).parent.parent))
    arguments = [f"{folder}|{phase}|{background}" for folder, (_, phase, background) in cases.items()]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder, (where, phase, background) in cases.items():
        left = {path.name for path in where.iterdir()}
        assert len(left) == 2, (folder, left, "nothing was begun")
        found = newest(folder)
        assert str(found) == f"{folder}/step_00000001", (phase, background)
        assert equal(load(str(found)).tensors, groups(1))
        save(folder, 2, groups(2), {}, keep_last=1)
        assert {path.name for path in where.iterdir()} == {"step_00000002"}, "what the killed process left is removed"
