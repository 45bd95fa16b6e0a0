"""A checkpoint is complete or absent, and says what is wrong with it."""

import json
import logging
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unified.checkpoint import NewerFormatError, load, manifest, newest, prune, save, verify
from unified.core.errors import CheckpointError
from unified.core.seed import generator, torch_generator


def groups(step: int = 1) -> dict[str, dict[str, Tensor]]:
    rng = torch_generator(step, "tensors")
    return {
        "weights": {"a.weight": torch.randn(7, 5, generator=rng), "b.bias": torch.randn(5, generator=rng)},
        "exp_avg": {"a.weight": torch.randn(7, 5, generator=rng)},
    }


def equal(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> bool:
    return {g: set(named) for g, named in a.items()} == {g: set(named) for g, named in b.items()} and all(
        torch.equal(tensor, b[g][name]) and tensor.dtype == b[g][name].dtype
        for g, named in a.items()
        for name, tensor in named.items()
    )


def saved(folder: Path, *steps: int, keep_last: int = 9) -> list[Path]:
    return [save(folder, step, groups(step), {"step": step}, keep_last=keep_last) for step in steps]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_tensors_and_state_come_back_exactly(tmp_path: Path) -> None:
    state = {
        "tiny": 5e-324,
        "tenth": 0.1,
        "large": 2**70,
        "word": "naïve",
        "flag": True,
        "none": None,
        "list": [1, [2.5]],
        "inf": math.inf,
    }
    path = save(tmp_path / "checkpoints", 1234, groups(), state, keep_last=1)
    assert path.name == "step_00001234"
    found = load(path)
    assert found.step == 1234
    assert equal(found.tensors, groups())
    assert found.state == state
    assert type(found.state["flag"]) is bool
    assert type(found.state["large"]) is int


def test_kinds_of_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    square = torch.arange(12.0).view(3, 4)
    tensors = {
        "half": torch.tensor([1.0, 1e-3, -0.0], dtype=torch.bfloat16),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "long": torch.tensor([2**62 + 1]),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "transposed": square.T,
        "row": square[1],
        "flat": square.view(-1),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    found = load(save(tmp_path, 1, {"weights": tensors, "nothing": {}}, {}, keep_last=1)).tensors
    assert equal(found, {"weights": {n: t.detach() for n, t in tensors.items()}, "nothing": {}})
    assert found["weights"]["transposed"].is_contiguous()


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    word = torch.randn(1000, 8, generator=torch_generator("tied"))
    path = save(tmp_path, 1, {"weights": {"word": word, "head": word, "other": word.clone()}}, {}, keep_last=1)
    found = load(path).tensors["weights"]
    assert (path / "weights.safetensors").stat().st_size < 2.1 * word.nbytes
    assert torch.equal(found["head"], word)
    assert found["head"].data_ptr() == found["word"].data_ptr() != found["other"].data_ptr()


def test_a_large_group_is_split_over_files(tmp_path: Path) -> None:
    tensors = {"weights": {f"w{i}": torch.full((10,), float(i)) for i in range(5)}, "exp_avg": {"w0": torch.ones(3)}}
    path = save(tmp_path, 1, tensors, {}, keep_last=1, max_file_bytes=80)
    assert [n for n in names(path) if n.startswith("weights")] == [
        f"weights-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    assert equal(load(path).tensors, tensors)
    assert list(load(path, ["exp_avg"]).tensors) == ["exp_avg"]


def test_an_unknown_group_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'weight' of tensors; did you mean 'weights'\?.*exp_avg, weights"):
        load(saved(tmp_path, 1)[0], ["weight"])


@pytest.mark.parametrize("value", [(1, 2), {1: "a"}, torch.ones(1), [{"x": (1,)}]], ids=repr)
def test_state_that_json_would_change_is_refused_by_name(value: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\.data"):
        save(tmp_path, 1, groups(), {"data": value}, keep_last=1)
    assert names(tmp_path) == []


def test_every_file_of_a_checkpoint_is_needed(tmp_path: Path) -> None:
    older = saved(tmp_path, 1)[0]
    for file in ("weights.safetensors", "exp_avg.safetensors", "state.json", "manifest.json"):
        path = saved(tmp_path, 2)[0]
        (path / file).unlink()
        with pytest.raises(CheckpointError, match=f"{file} is missing.*next older complete checkpoint is {older}"):
            load(path)
        assert newest(tmp_path) == older


def test_any_flipped_bit_is_found_and_named(tmp_path: Path) -> None:
    path = saved(tmp_path, 5)[0]
    rng = generator("flips")
    for file in names(path):
        size = (path / file).stat().st_size
        for position in {0, size - 1, *rng.integers(size, size=40).tolist()}:
            bit = int(rng.integers(8))
            flip(path / file, position, bit)
            with pytest.raises(CheckpointError, match=rf"{file}.*(there is no older|install the version)"):
                load(path)
            flip(path / file, position, bit)
    verify(path)


def test_a_cut_file_is_found_without_reading_it(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)[0]
    with (path / "weights.safetensors").open("r+b") as file:
        file.truncate(50)
    with pytest.raises(CheckpointError, match=r"weights.safetensors has 50 bytes; expected \d+"):
        verify(path, hashes=False)


def test_hashes_are_left_out_of_large_checkpoints_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, 1)[0]
    flip(path / "weights.safetensors", -1)
    monkeypatch.setattr(manifest, "HASHED_BELOW", 100)
    verify(path)
    with pytest.raises(CheckpointError, match=r"weights.safetensors has changed"):
        verify(path, hashes=True)


def test_newest_skips_damaged_checkpoints_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second, third = saved(tmp_path, 1, 2, 3)
    flip(third / "weights.safetensors", -1)
    (second / "state.json").unlink()
    with caplog.at_level(logging.WARNING, logger="unified"):
        assert newest(tmp_path) == first
    assert "step_00000003 is skipped: weights.safetensors has changed" in caplog.text
    assert "step_00000002 is skipped: state.json is missing" in caplog.text
    assert newest(tmp_path / "none") is None


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    saved(tmp_path, 99_999_999, 100_000_000)
    assert newest(tmp_path) == tmp_path / "step_100000000"


def test_a_newer_format_is_refused_everywhere(tmp_path: Path) -> None:
    path = saved(tmp_path, 1, 2)[1]
    content = json.loads((path / "manifest.json").read_text())
    content.update(format=3, written_by="unified 9.1")
    (path / "manifest.json").write_text(json.dumps(content))
    for use in (load, verify, lambda p: newest(p.parent)):
        with pytest.raises(NewerFormatError, match="expected a format up to 2, got 3"):
            use(path)


def test_keep_last_removes_the_oldest(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, 4, keep_last=2)
    assert names(tmp_path) == ["step_00000003", "step_00000004"]
    with pytest.raises(ValueError, match="keep_last: 0"):
        saved(tmp_path, 5, keep_last=0)


def test_pruning_never_removes_the_newest_complete_checkpoint(tmp_path: Path) -> None:
    first, second, third = saved(tmp_path, 1, 2, 3)
    (second / "state.json").unlink()
    (third / "state.json").unlink()
    prune(tmp_path, 1)
    assert newest(tmp_path) == first
    # Training went back to step 1 and saves step 2 again: the damaged step 3 must not count as the one to keep.
    assert newest(tmp_path) == first
    saved(tmp_path, 2, keep_last=1)
    assert newest(tmp_path) == second
    assert names(tmp_path) == ["step_00000002", "step_00000003"]
    assert equal(load(saved(tmp_path, 3, keep_last=1)[0]).tensors, groups(3))
    assert names(tmp_path) == ["step_00000003"]


def test_a_complete_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)[0]
    inode = (path / "weights.safetensors").stat().st_ino
    assert save(tmp_path, 1, groups(1), {"another": "state"}, keep_last=1) == path
    assert (path / "weights.safetensors").stat().st_ino == inode
    with pytest.raises(CheckpointError, match="complete checkpoint with other tensors is there already"):
        save(tmp_path, 1, groups(2), {}, keep_last=1)
    assert equal(load(path).tensors, groups(1))
    assert names(tmp_path) == ["step_00000001"]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)[0]
    flip(path / "weights.safetensors", -1)
    saved(tmp_path, 1)
    assert equal(load(path).tensors, groups(1))


def test_leftovers_of_a_killed_writer_are_ignored_and_cleaned(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)[0]
    path.rename(tmp_path / ".writing_step_00000009")  # whole, but never said to be
    (tmp_path / ".removing_step_00000000").mkdir()
    assert newest(tmp_path) is None
    saved(tmp_path, 2)
    assert names(tmp_path) == ["step_00000002"]


SAVE_FOR_EVER = """
import sys
from pathlib import Path
import torch
from unified.checkpoint import save, newest
torch.set_num_threads(1)
folder = Path(sys.argv[1])
start = newest(folder)
step = 0 if start is None else int(start.name[5:])
print("ready", flush=True)
while True:
    step += 1
    save(folder, step, {"weights": {f"w{i}": torch.full((50_000,), float(step)) for i in range(4)}}, {"step": step},
         keep_last=2)
    print(step, flush=True)
"""


def test_kill_while_saving_leaves_a_loadable_newest(tmp_path: Path) -> None:
    delays = random.Random(1)  # a generator of its own
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, tmp_path], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        told = 0
        for _ in range(4):
            line = process.stdout.readline().strip()
            told = int(line) if line != "ready" else 0
        time.sleep(delays.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        told = max([told, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        path = newest(tmp_path)
        assert path is not None
        found = load(path, hashes=True)
        assert found.step >= told, "a checkpoint that was reported as written is not there"
        assert all((tensor == found.step).all() for tensor in found.tensors["weights"].values())


SAVE_WITH_LIMIT = """
import resource, sys
from pathlib import Path
import torch
from unified.checkpoint import CheckpointError, save
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    save(Path(sys.argv[1]), 2, {"weights": {"w": torch.ones(100_000)}}, {"text": "x" * 10_000}, keep_last=1)
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [200_000, 5_000], ids=["in the tensors", "at once"])
def test_no_room_while_saving_leaves_the_previous_checkpoint(limit: int, tmp_path: Path) -> None:
    older = saved(tmp_path, 1)[0]
    command = [sys.executable, "-c", SAVE_WITH_LIMIT, str(tmp_path), str(limit)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "step_00000002: could not be written" in output
    assert f"the newest complete checkpoint is still {older}" in output
    assert names(tmp_path) == ["step_00000001"]
    assert equal(load(older).tensors, groups(1))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Path:
    """A file system of 1 MB, where it may be mounted; it goes with the name space of the process that mounts it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        allowed = subprocess.run(probe, capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("needs the right to mount a tmpfs; the limit of the file size is tested without it")
    return folder


FILL_DISK = """
import os, sys
from pathlib import Path
import torch
from unified.checkpoint import CheckpointError, load, newest, save
folder = Path(sys.argv[1])
save(folder, 1, {"weights": {"w": torch.ones(100_000)}}, {}, keep_last=1)
try:
    save(folder, 2, {"weights": {"w": torch.ones(200_000)}}, {}, keep_last=1)
except CheckpointError as error:
    print(error)
print(os.listdir(folder), load(newest(folder)).step)
"""


def test_a_full_disk_leaves_the_previous_checkpoint(tiny_disk: Path) -> None:
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tiny_disk), sys.executable, FILL_DISK]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "No space left on device" in output
    assert output.endswith("['step_00000001'] 1\n")


def test_an_interrupt_while_saving_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, 2)
    assert names(tmp_path) == ["step_00000001"]
