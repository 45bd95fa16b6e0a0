"""Models by name: from a run, an exported folder and the hub, with the same answers everywhere."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModel, pipeline

import tests.loopback_hub as loopback
from unified import checkpoint
from unified.config.model import ModelSettings
from unified.core import seed
from unified.core.errors import HubError
from unified.core.training_record import TrainedShard, TrainingRecord, write_record
from unified.hub import publish
from unified.hub.export import export
from unified.hub.load import Weights, load, run_folder
from unified.modalities import load_tokenizers
from unified.modalities.image.settings import ImageSettings
from unified.modalities.text.settings import TextSettings
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.processor import UnifiedProcessor

ROOT = Path(__file__).parent.parent.parent
IMAGE = ImageSettings("image_glyph", 8, positions="learned", grid=2)
SETTINGS = ModelSettings(
    width=32, depth=1, heads=2, hidden=32, modalities={"image": IMAGE, "text": TextSettings(max_length=12)}
)
LABELS = ["digit zero", "latin small letter e", "arrow"]
RESULTS = {
    "format": 1,
    "command": "unified eval runs/x digits",
    "results": [
        {
            "dataset": "digits",
            "label": "zero-shot, bare names",
            "features": "model",
            "metrics": {"acc1": 0.8125, "acc5": None},
            "ci": {"acc1": {"low": 0.79, "high": 0.83}, "acc5": {"low": None, "high": None}},
            "seeds": None,
            "n": 1797,
        }
    ],
}


def model_of(*key: str) -> UnifiedModel:
    tokenizers = load_tokenizers(SETTINGS.modalities)
    with seed.seeded(*key):
        return UnifiedModel(UnifiedConfig.from_settings(SETTINGS, tokenizers, ["names", "words"]))


def picture() -> Image.Image:
    return Image.fromarray(seed.generator("picture").integers(0, 256, (20, 30, 3), dtype=np.uint8))


def probabilities(model: UnifiedModel, processor: UnifiedProcessor) -> Tensor:
    return model.eval().classify(processor(images=picture()), LABELS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints, the newer of which has a moving average too."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    old, new, average = (model_of(key) for key in ("old", "new", "average"))
    new.config.save_pretrained(folder / "model")
    tokenizers = load_tokenizers(SETTINGS.modalities)
    UnifiedProcessor.from_tokenizers(tokenizers).save_pretrained(folder / "model")
    checkpoint.save(folder / "checkpoints", 1, {"weights": old.state_dict()}, {}, keep_last=2)
    groups = {"weights": new.state_dict(), "ema": dict(average.named_parameters())}
    checkpoint.save(folder / "checkpoints", 12, groups, {}, keep_last=2)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results") / "results.json"
    results.write_text(json.dumps(RESULTS), encoding="utf-8")
    out = tmp_path_factory.mktemp("exported") / "tiny"
    export(run, out, results=results)
    return out


@pytest.mark.parametrize(("weights", "key"), [("auto", "average"), ("ema", "average"), ("weights", "new")])
def test_a_run_is_its_newest_checkpoint(run: Path, weights: Weights, key: str) -> None:
    model, processor = load(run, weights=weights)
    assert not model.training
    assert model.processor is processor
    expected = model_of(key)
    expected.processor = processor
    torch.testing.assert_close(probabilities(model, processor), probabilities(expected, processor))


def test_a_checkpoint_is_the_run_at_its_step(run: Path) -> None:
    (first, processor), (last, _) = (load(run / "checkpoints" / f"step_{step:08d}") for step in (1, 12))
    expected = model_of("old")
    expected.processor = processor
    torch.testing.assert_close(probabilities(first, processor), probabilities(expected, processor))
    torch.testing.assert_close(probabilities(last, processor), probabilities(*load(run)))
    with pytest.raises(HubError, match="or a checkpoint; expected the folder of a run"):
        run_folder(run / "checkpoints" / "step_00000001")


def test_an_exported_folder_gives_the_same_answers(run: Path, exported: Path) -> None:
    assert torch.equal(probabilities(*load(exported)), probabilities(*load(run)))
    names = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in exported.iterdir()} == {*names, "README.md"}


def test_auto_model_and_pipeline_load_it(exported: Path) -> None:
    model, processor = load(exported)
    auto = AutoModel.from_pretrained(exported)
    assert all(torch.equal(value, auto.state_dict()[name]) for name, value in model.state_dict().items())
    ask = pipeline("zero-shot-image-classification", model=str(exported))
    answers = ask(picture(), candidate_labels=LABELS, hypothesis_template="{}")
    found = {answer["label"]: answer["score"] for answer in answers}
    expected = dict(zip(LABELS, probabilities(model, processor)[0].tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_card_says_what_was_measured(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: unified\n")
    # Of results that do not say what was trained on, nothing is published as zero-shot.
    assert "| digits | bare names | model | acc1 | 0.8125 | 0.79 – 0.83 | – | 1,797 | training data unknown |" in card
    assert "acc5" not in card
    assert "moving average of the weights of the run tiny at step 12" in card
    assert "`names`, `words`" in card


def test_results_of_something_else_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"results": [{"accuracy": 1}]}')
    for name, message in [
        ("other.json", r"results\[0\]\.dataset: expected a text, got none"),
        ("none.json", "no such file"),
    ]:
        with pytest.raises(HubError, match=message):
            export(run, tmp_path / "out", results=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_export_leaves_foreign_folders_alone(run: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(HubError, match=r"not empty.*thesis\.tex"):
        export(run, tmp_path)
    out = tmp_path / "copy"
    shutil.copytree(exported, out)
    export(run, out, weights="weights")
    assert "| made from | weights of the run tiny" in (out / "README.md").read_text(encoding="utf-8")


def test_a_model_with_other_weights_is_refused(exported: Path, tmp_path: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "depth": 2}))
    with pytest.raises(HubError, match=r"missing: encoder\.blocks\.1"):
        load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(HubError, match=r"no weights.*README\.md"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    with pytest.raises(HubError, match="type 'clip'"):
        load(tmp_path)


def test_names_that_are_nothing_have_clear_errors(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    monkeypatch.chdir(run.parent)
    for reference, message in [
        ("tinny", r"neither a folder nor a hub name.*did you mean 'tiny'"),
        ("./tiny/checkpoint", r"no such folder; did you mean 'checkpoints'"),
        (tmp_path / "notes", r"no config\.json.*holds a\.txt"),
        (tmp_path / "notes" / "a.txt", "a file; give the folder"),
        ("some-org/some-model", r"no folder of that name here.*HF_HUB_OFFLINE"),
    ]:
        with pytest.raises(HubError, match=message):
            load(reference)


def test_a_run_without_checkpoint_has_a_clear_error(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes((run / "model" / "config.json").read_bytes())
    with pytest.raises(HubError, match="no complete checkpoint yet"):
        load(tmp_path)


def test_a_run_without_average_says_so(run: Path, exported: Path, tmp_path: Path) -> None:
    for path in (run / "model").iterdir():
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    checkpoint.save(tmp_path / "checkpoints", 1, {"weights": model_of("old").state_dict()}, {}, keep_last=1)
    with pytest.raises(HubError, match="keeps no moving average"):
        load(tmp_path, weights="ema")
    with pytest.raises(HubError, match="one set of weights"):
        load(exported, weights="ema")
    assert probabilities(*load(tmp_path)).shape == (1, 3)


def test_device_and_dtype_are_those_that_are_asked_for(run: Path, exported: Path) -> None:
    for reference in (run, exported):
        model, processor = load(reference, device="cpu", dtype="bfloat16")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        expected = probabilities(*load(reference))
        torch.testing.assert_close(probabilities(model, processor).float(), expected, atol=0.05, rtol=0.05)
    assert load(exported, dtype=torch.float64)[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, r"dtype: expected float32, bfloat16, float16 or float64, got 'int8'"),
        ({"dtype": "bf61"}, r"got 'bf61'"),
        ({"device": "cuda:7"}, r"device: expected one of this machine, got 'cuda:7'"),
        ({"device": "gpu"}, r"device: expected one of this machine, got 'gpu'"),
        ({"revision": "v1"}, r"revision: expected a name on the hub \(org/name\), got .*leave the revision out"),
    ],
)
def test_what_cannot_be_loaded_so_is_told(exported: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HubError, match=message):
        load(exported, **options)


def test_push_checks_what_it_is_given(run: Path, exported: Path) -> None:
    with pytest.raises(HubError, match="not an exported model"):
        publish.push(run, "org/name")
    with pytest.raises(HubError, match="org/name"):
        publish.push(exported, "name")
    with pytest.raises(HubError, match="upload failed"):
        publish.push(exported, "org/name")


@pytest.fixture
def server() -> Iterator[str]:
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), loopback.handler({}))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_pushed_model_loads_by_its_name(server: str, exported: Path, tmp_path: Path) -> None:
    """Through a hub on this machine, in a fresh process that imports the package alone.

    Its record of training data goes with it, without paths of this machine.
    """
    folder = tmp_path / "pushed"
    shutil.copytree(exported, folder)
    shards = tuple(
        TrainedShard(name * 64, 1, f"{place}.tar", "") for name, place in (("a", "/home/me/x"), ("b", "x/y"))
    )
    write_record(folder, TrainingRecord(shards, ()))
    code = f"""
import os
from pathlib import Path
from huggingface_hub import snapshot_download
from unified.hub import load as hub, publish

def refused(call, *words):
    try:
        call()
    except hub.HubError as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(words)

done = publish.push({str(folder)!r}, "org/tiny")
assert done.url == os.environ["HF_ENDPOINT"] + "/org/tiny" and done.private, done
assert publish.push({str(folder)!r}, "org/tiny").private, "as it was"
refused(lambda: publish.push({str(folder)!r}, "org/tiny", private=False), "expected it to be public", "and private")
card = Path(snapshot_download("org/tiny"), "README.md").read_text()
assert "# org/tiny" in card and 'unified.load("org/tiny")' in card and 'model="org/tiny"' in card, card
assert "- x" in card and "license: unknown" in card and "name: org/tiny" in card, card
refused(lambda: hub.load("org/tiny", revision="mian"), "no revision 'mian'; did you mean 'main'? There are: main, v1")
assert hub.load("org/tiny", revision="v1")[0].config.width == 32
model, processor = hub.load("org/tiny")
assert [shard.location for shard in model.training_record.shards] == ["", "x/y.tar"]
print(model.classify(processor(images=picture), {LABELS!r}).tolist())
"""
    picture().save(tmp_path / "picture.png")
    environment = {
        **os.environ,
        "HF_ENDPOINT": server,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_of_this_test",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    script = f"picture = {str(tmp_path / 'picture.png')!r}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(found, probabilities(*load(exported)))
