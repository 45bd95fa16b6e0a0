"""Checkpoints of a run: written beside training, and by ranks that share the work."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor

from unified.checkpoint import Writer, load, newest
from unified.checkpoint.place import Place
from unified.checkpoint.ranks import Shares
from unified.core.errors import CheckpointError
from unified.core.seed import torch_generator

HERE = Path(__file__).parent.parent
GROUPS = ("weights", "exp_avg", "steps")


def tensors(step: int = 1) -> dict[str, dict[str, Tensor]]:
    rng = torch_generator(step, "writer")
    named = {f"w{number}": torch.randn(40, 5, generator=rng) for number in range(7)}
    return {"weights": {"word": torch.randn(300, 5, generator=rng), **named}, "exp_avg": named, "steps": {}}


def stream(groups: dict[str, dict[str, Tensor]]) -> Iterator[tuple[str, str, Tensor]]:
    for group, named in groups.items():
        for name, tensor in named.items():
            yield group, name, tensor


def equal(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> bool:
    return {g: set(named) for g, named in a.items()} == {g: set(named) for g, named in b.items()} and all(
        torch.equal(tensor, b[g][name]) for g, named in a.items() for name, tensor in named.items()
    )


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Files are written when it is set."""
    event, put = Event(), Place.put

    def waiting(self: Place, file: str, write: Callable[[Path], None]) -> dict[str, Any]:
        assert event.wait(30)
        return put(self, file, write)

    monkeypatch.setattr(Place, "put", waiting)
    yield event
    event.set()


def test_training_goes_on_while_what_was_there_at_the_step_is_written(tmp_path: Path, gate: Event) -> None:
    writer = Writer(tmp_path, keep_last=2, background=True)
    live = tensors()
    for step in (1, 2):  # the second time over, in the same memory
        gate.clear()
        for group, name, tensor in stream(tensors(step)):
            live[group][name].copy_(tensor)
        writer.save(step, GROUPS, stream(live), {"seen": step})
        for _, _, tensor in stream(live):
            tensor.fill_(7.0)
        writer.check()
        assert newest(tmp_path) == (tmp_path / "step_00000001" if step == 2 else None)
        gate.set()
        writer.wait()
        found = load(tmp_path / f"step_{step:08d}")
        assert found.state == {"seen": step}
        assert equal(found.tensors, tensors(step))
    writer.close()


def test_a_save_waits_for_the_one_before(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep_last=2, background=True)
    for step in (1, 2, 3):
        writer.save(step, GROUPS, stream(tensors(step)), {})
    assert newest(tmp_path) == tmp_path / "step_00000002"
    writer.wait()
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]


def test_beside_training_or_not_the_files_are_the_same(tmp_path: Path) -> None:
    for background in (False, True):
        writer = Writer(tmp_path / str(background), keep_last=1, background=background, max_file_bytes=3000)
        writer.save(1, GROUPS, stream(tensors()), {"seen": 1})
        writer.wait()
        writer.close()
    inside = content(tmp_path / "False" / "step_00000001")
    assert inside == content(tmp_path / "True" / "step_00000001")
    assert "weights-00002-of-00004.safetensors" in inside


@pytest.mark.parametrize("at_once", [False, True], ids=["at a later step", "at the end"])
def test_what_the_thread_cannot_write_ends_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    writer = Writer(tmp_path, keep_last=1, background=True)
    writer.save(1, GROUPS, stream(tensors()), {})
    writer.wait()

    def full(self: Place, file: str, write: Callable[[Path], None]) -> dict[str, Any]:
        (self.path / file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Place, "put", full)

    def later_steps() -> None:
        for _ in range(3000):
            writer.check()
            time.sleep(0.01)

    writer.save(2, GROUPS, stream(tensors(2)), {})
    with pytest.raises(CheckpointError, match=r"No space left.*newest complete checkpoint is still .*step_00000001"):
        (writer.wait if at_once else later_steps)()
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    monkeypatch.undo()
    writer.check()
    writer.save(2, GROUPS, stream(tensors(2)), {})
    writer.wait()
    writer.close()
    assert newest(tmp_path) == tmp_path / "step_00000002"


def test_a_later_checkpoint_of_another_version_is_not_written_over(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep_last=1)
    writer.save(1, GROUPS, stream(tensors()), {})
    manifest = tmp_path / "step_00000001" / "manifest.json"
    newer = json.dumps({**json.loads(manifest.read_text()), "format": 3})
    manifest.write_text(newer)
    with pytest.raises(CheckpointError, match="expected a format up to 2, got 3"):
        writer.save(1, GROUPS, stream(tensors(2)), {})
    writer.close()
    assert manifest.read_text() == newer


def test_shares_are_even() -> None:
    sizes = 4 * [5000, *12 * [300, 1200, 1200, 4]]  # an embedding and blocks, in each of four groups
    shares = Shares(4)
    owners = [shares.owner(size) for size in sizes]
    own = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == rank) for rank in range(4)]
    assert own == shares.bytes
    assert max(own) < 1.1 * sum(sizes) / 4


RANK = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
import json, torch, torch.distributed as distributed
from tests.checkpoint.test_write import GROUPS, stream, tensors
from unified.checkpoint import CheckpointError, Writer
from unified.checkpoint.place import Place
torch.set_num_threads(1)
folder = Path(sys.argv[1])
rank, ranks = int(sys.argv[2]), 3
distributed.init_process_group("gloo", init_method=f"file://{{folder}}/rendezvous", rank=rank, world_size=ranks)
found = {{"kept": {{}}, "errors": {{}}}}
for background in (False, True):
    writer = Writer(folder / str(background), keep_last=2, background=background)
    writer.save(1, GROUPS, stream(tensors()), {{"seen": 1}})
    writer.wait()
    found["kept"][str(background)] = sum(copy.nbytes for copy in writer._copies.values())
    put = Place.put
    for phase, at, name in (("files", 1, "weights"), ("manifest", 0, "manifest")):
        def full(self, file, write):
            if rank == at and file.startswith(name):
                raise OSError(28, "No space left on device")
            return put(self, file, write)
        Place.put = full
        try:
            writer.save(2, GROUPS, stream(tensors(2)), {{}})
            writer.wait()
        except CheckpointError as error:
            found["errors"][f"{{phase}} {{background}}"] = str(error)
        Place.put = put
    writer.close()
try:
    Writer(folder / "uneven", keep_last=1).save(1, ["weights"], [("weights", "w", torch.zeros(1 + rank))], {{}})
except RuntimeError as error:
    found["uneven"] = str(error)
(folder / f"rank{{rank}}.json").write_text(json.dumps(found))
distributed.barrier()
distributed.destroy_process_group()
"""


@pytest.mark.distributed
def test_ranks_share_the_writing_and_end_together_where_one_cannot_write(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANK.format(here=str(HERE)), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True) for rank in range(3)
    ]
    for process in ranks:
        _, text = process.communicate(timeout=120)
        assert process.returncode == 0, text
    found = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(3)]
    assert all("tensors of different sizes" in of_rank["uneven"] for of_rank in found)
    total = sum(tensor.nbytes for _, _, tensor in stream(tensors()))
    kept = [of_rank["kept"]["True"] for of_rank in found]
    assert sum(kept) == total
    assert max(kept) < 0.5 * total, "the memory of copies is shared"
    for background in ("False", "True"):
        assert [path.name for path in (tmp_path / background).iterdir()] == ["step_00000001"]
        path = tmp_path / background / "step_00000001"
        assert {f"weights-{rank:05d}-of-00003.safetensors" for rank in (1, 2, 3)} < set(content(path))
        assert {"steps.safetensors"} < set(content(path))
        assert equal(load(path).tensors, tensors()), "one process reads what three wrote"
        for phase in ("files", "manifest"):
            (error,) = {of_rank["errors"][f"{phase} {background}"] for of_rank in found}
            assert "step_00000002: could not be written" in error
            assert "No space left on device" in error
            assert f"the newest complete checkpoint is still {path}" in error
    assert content(tmp_path / "False" / "step_00000001") == content(tmp_path / "True" / "step_00000001")
