"""`unified export` of a large run: several files, bit-equal, with the memory of one of them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel

from unified import checkpoint
from unified.config.model import ModelSettings
from unified.core import seed
from unified.core.errors import HubError
from unified.hub.export import export
from unified.hub.load import load
from unified.modalities import load_tokenizers
from unified.modalities.image.settings import ImageSettings
from unified.modalities.text.settings import TextSettings
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.processor import UnifiedProcessor

IMAGE = ImageSettings("image_glyph", 8, positions="learned", grid=2)
SETTINGS = ModelSettings(
    width=32, depth=2, heads=2, hidden=32, modalities={"image": IMAGE, "text": TextSettings(max_length=12)}
)


def model_of(key: str, settings: ModelSettings = SETTINGS) -> UnifiedModel:
    tokenizers = load_tokenizers(settings.modalities)
    with seed.seeded(key):
        return UnifiedModel(UnifiedConfig.from_settings(settings, tokenizers, ["names", "words"]))


def write_run(folder: Path, place: str | None = None, settings: ModelSettings = SETTINGS) -> Path:
    """A run of a checkpoint with weights and their average, in several files."""
    model, average = model_of("new", settings), model_of("average", settings)
    model.config.save_pretrained(folder / "model")
    tokenizers = load_tokenizers(settings.modalities)
    UnifiedProcessor.from_tokenizers(tokenizers).save_pretrained(folder / "model")
    if place:
        (folder / "recipe.yaml").write_text(f"train: {{checkpoints: '{place}'}}\n")
    groups = {"weights": model.state_dict(), "ema": dict(average.named_parameters())}
    checkpoint.save(place or folder / "checkpoints", 3, groups, {}, keep_last=1, max_file_bytes=100_000)
    return folder


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_files_of_a_size_with_an_index_load_bit_equal(tmp_path: Path, kind: str) -> None:
    run = write_run(tmp_path / "run", f"memory://{tmp_path}/run" if kind == "url" else None)
    out = tmp_path / "out"
    export(run, out, max_shard_size="100KB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) > 2
    assert files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    expected = model_of("average").state_dict()
    largest = max(tensor.nbytes for tensor in expected.values())
    assert all((out / file).stat().st_size < max(100_000, largest) + 10_000 for file in files)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())
    for model in (AutoModel.from_pretrained(out), load(out)[0], load(run)[0]):
        found = model.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_files_are_like_those_that_transformers_writes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    model, _ = load(run)
    for size in ("100KB", "5GB"):  # the second time over the files of the first
        export(run, tmp_path / "ours", max_shard_size=size)
        theirs = tmp_path / f"theirs {size}"
        model.save_pretrained(theirs, max_shard_size=size)
        names = {path.name for path in (tmp_path / "ours").glob("model*")}
        assert names == {path.name for path in theirs.glob("model*")}
        a, b = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "ours", theirs))
        assert a == b
        for name in names:
            if name.endswith(".json"):
                a, b = (json.loads((folder / name).read_text()) for folder in (tmp_path / "ours", theirs))
                assert a["metadata"] == b["metadata"]
                assert a["weight_map"].keys() == b["weight_map"].keys()  # transformers sorts some of them
            else:
                with safe_open(tmp_path / "ours" / name, "pt") as ours, safe_open(theirs / name, "pt") as other:
                    assert ours.metadata() == other.metadata()


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(HubError, match=r"--max-shard-size much: .*such as 5GB"):
        export(run, tmp_path / "out", max_shard_size="much")
    export(run, tmp_path / "out")
    with pytest.raises(HubError, match="expected the folder of a run"):
        export(tmp_path / "out", tmp_path / "again")
    config = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps({**config, "depth": config["depth"] + 1}))
    with pytest.raises(HubError, match=r"not those of .*model: encoder\.blocks"):
        export(run, tmp_path / "other")


PEAK = """
import resource, sys
import torch
from unified.hub.export import export
torch.set_num_threads(1)
small, large, out = sys.argv[1:]
export(small, out + "/small", max_shard_size="1MB")  # what is imported and allocated once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export(large, out + "/large", max_shard_size="10MB")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_the_peak_of_memory_is_near_one_file(tmp_path: Path) -> None:
    small = write_run(tmp_path / "small")
    large = write_run(tmp_path / "large", settings=replace(SETTINGS, width=256, depth=32, heads=4, hidden=1024))
    command = [sys.executable, "-c", PEAK, str(small), str(large), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [path.stat().st_size for path in (tmp_path / "out" / "large").glob("*.safetensors")]
    assert sum(files) > 90e6
    assert int(done.stdout) < 3 * max(files) < 0.4 * sum(files), "of the whole model, and its average"
