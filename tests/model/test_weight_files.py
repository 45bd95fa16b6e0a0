"""Weights and tokenizers as they lie in folders: old ones beside new, pointers, and files that are cut off."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_models import small_model, written

from unified.core.errors import DataError, HubError, UserError
from unified.hub.load import load
from unified.modalities.text.tokenizer import TextTokenizer
from unified.model.pretrained import UnifiedModel
from unified.model.weight_files import INDEX, WEIGHTS, WeightsError, check_weight_file, check_weights

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 3456\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was saved whole."""
    return written(small_model(), tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def changed(folder: Path) -> UnifiedModel:
    """The model of a folder with other weights."""
    model, _ = load(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05)
    return model


def same(one: UnifiedModel, other: UnifiedModel) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("sizes", [["20KB"], ["20KB", "5GB"], ["20KB", "40KB"], ["5GB"]])
def test_saving_again_leaves_one_set_of_weights(folder: Path, sizes: list[str]) -> None:
    for size in sizes:
        model = changed(folder)
        model.save_pretrained(folder, max_shard_size=size)
        assert same(load(folder)[0], model)
        assert same(UnifiedModel.from_pretrained(folder), model)
        assert (folder / WEIGHTS).is_file() != (folder / INDEX).is_file()


def test_two_sets_of_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    changed(folder).save_pretrained(tmp_path / "split", max_shard_size="20KB")
    for file in (tmp_path / "split").glob("model*"):
        shutil.copy(file, folder)
    with pytest.raises(HubError, match=rf"expected one set of weights, got {WEIGHTS} and the files that {INDEX} names"):
        load(folder)
    with pytest.raises(WeightsError, match="Hint: delete the older of the two"):
        UnifiedModel.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    assert same(load(folder)[0], load(tmp_path / "split")[0])
    next(folder.glob("model-00002-of*")).unlink()
    with pytest.raises(HubError, match=r"model-00002-of.*: expected a file of weights, got none"):
        load(folder)


def cut(keep: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * keep)]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "pointer": (lambda _: POINTER, "got a pointer of git-lfs.*git lfs pull"),
    "empty": (lambda _: b"", "got an empty file"),
    "page": (lambda _: b"<!DOCTYPE html><html>Sign in</html>", "got a web page"),
    "compressed": (lambda _: b"\x1f\x8b\x08\x00" + bytes(99), "got gzip-compressed data"),
    "pickle": (lambda _: b"\x80\x02}q\x00." * 9, "got another or a damaged file"),
    "cut": (cut(0.6), r"expected [\d,]+ bytes of weights, got [\d,]+"),
    "cut in its header": (lambda data: data[:300], "got a file that is cut off"),
    "longer": (lambda data: data + b"\0", r"expected [\d,]+ bytes of weights, got [\d,]+"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_files_that_are_no_whole_weights_are_named(folder: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    file = folder / WEIGHTS
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(HubError, match=rf"{WEIGHTS}: (expected .*)?{message}") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=message):
        UnifiedModel.from_pretrained(folder)


def test_a_part_of_split_weights_is_named(folder: Path) -> None:
    changed(folder).save_pretrained(folder, max_shard_size="20KB")
    part = sorted(folder.glob("model-*.safetensors"))[1]
    part.write_bytes(POINTER)
    with pytest.raises(HubError, match=rf"{part.name}: expected weights \(safetensors\), got a pointer of git-lfs"):
        load(folder)
    (folder / INDEX).write_bytes(POINTER)
    with pytest.raises(HubError, match=rf"{INDEX}: expected the index of files of weights, got a pointer of git-lfs"):
        load(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/tmp/model.safetensors", "weights.bin", "a/b.safetensors"])
def test_an_index_names_weights_of_its_own_folder_alone(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"proj.weight": name}}))
    with pytest.raises(WeightsError, match="expected names of safetensors files in this folder, got"):
        check_weights(folder)


def test_whole_files_pass(saved: Path) -> None:
    check_weights(saved)
    check_weight_file(saved / WEIGHTS)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json", "config.json"])
@pytest.mark.parametrize(
    ("damage", "message"), [(lambda _: POINTER, "a pointer of git-lfs"), (cut(0.5), "damaged or other text")]
)
def test_files_of_the_processor_are_named(
    folder: Path, name: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    file = folder / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises((HubError, DataError), match=rf"{name}: expected JSON, got {message}") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, r"expected JSON, got a pointer of git-lfs\. Hint: .*git lfs pull"),
        (b'{"version": "1.0", "added', r"expected JSON, got damaged or other text \(Unterminated string"),
        (json.dumps({"version": "1.0"}).encode(), "expected a file of the library tokenizers"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"tokenizer\.json: {message}"):
        TextTokenizer.load(str(tmp_path), 8)
