"""The processor: every kind of image, texts as in training, and a folder that the Auto classes reload."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from unified.config.model import ModelSettings
from unified.core.errors import DataError, RecipeError, UserError
from unified.modalities import load_tokenizers
from unified.modalities.image.files import decode_image
from unified.modalities.image.settings import ImageSettings
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.modalities.text.settings import TextSettings
from unified.model.config import UnifiedConfig
from unified.model.processor import UnifiedProcessor, register

TOKENIZERS = load_tokenizers({"image": ImageSettings("image_glyph", 4), "text": TextSettings(max_length=8)})
PROCESSOR = UnifiedProcessor.from_tokenizers(TOKENIZERS)
register()


def array(*shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=0)).integers(0, 256, shape, dtype=np.uint8)


def exported(folder: Path) -> Path:
    PROCESSOR.save_pretrained(folder)
    UnifiedConfig.from_settings(ModelSettings(), TOKENIZERS, ["names"]).save_pretrained(folder)
    return folder


def test_every_kind_of_image_gives_the_same_pixels(tmp_path: Path) -> None:
    pixels = array(24, 20, 3)
    picture, tensor = Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)
    picture.save(tmp_path / "a.png")
    expected = TOKENIZERS["image"].prepare(tensor)
    assert expected.dtype == torch.uint8
    kinds = [picture, pixels, tensor, tmp_path / "a.png", str(tmp_path / "a.png"), picture.convert("RGBA")]
    for image in kinds:
        assert torch.equal(PROCESSOR(images=image)["pixel_values"], expected[None]), type(image)
    assert torch.equal(PROCESSOR(images=kinds)["pixel_values"], expected.expand(len(kinds), -1, -1, -1))
    assert PROCESSOR(images=tensor.expand(5, -1, -1, -1))["pixel_values"].shape == (5, 3, 16, 16)
    assert PROCESSOR(images=[tensor.expand(5, -1, -1, -1)])["pixel_values"].shape == (1, 5, 3, 16, 16)


def test_animated_images_are_videos_of_their_frames(tmp_path: Path) -> None:
    frames = [Image.fromarray(array(16, 16, 3) // 2 + 60 * number) for number in range(3)]
    for name in ("a.webp", "a.png", "a.tiff"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "webp" in name else {})
        )
        expected = torch.stack([torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in frames])[None]
        assert torch.equal(PROCESSOR(images=tmp_path / name)["pixel_values"], expected)
        with Image.open(tmp_path / name) as opened:
            opened.seek(1)
            assert torch.equal(PROCESSOR(images=opened)["pixel_values"], expected)
            assert torch.equal(PROCESSOR(images=opened.copy())["pixel_values"], expected[:, 1])  # where it stands
    limited = UnifiedProcessor.from_tokenizers({**TOKENIZERS, "image": ImageTokenizer.load("image_glyph", 4, 2)})
    with pytest.raises(DataError, match=r"images: number 0: expected at most 2 frames \(model.modal.*, got 3"):
        limited(images=tmp_path / "a.webp")
    with pytest.raises(DataError, match=r"number 1: .*got 3"):
        limited(images=[torch.zeros(2, 3, 16, 16).byte(), torch.zeros(3, 3, 16, 16).byte()])


def test_grey_images_are_the_same_in_all_forms() -> None:
    pixels = array(16, 16)
    for image in (pixels, torch.from_numpy(pixels), Image.fromarray(pixels)):
        values = PROCESSOR(images=image)["pixel_values"][0]
        assert values.eq(torch.from_numpy(pixels)).all()


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_what_is_transparent_is_white_as_in_training(tmp_path: Path, mode: str) -> None:
    layer = Image.new("RGBA", (16, 16), (10, 90, 20, 0))
    layer.paste((200, 0, 0, 255), (0, 0, 8, 16))
    file = tmp_path / "a.png"
    layer.save(file) if mode == "RGBA" else layer.quantize(4).save(file)
    trained = decode_image(file.read_bytes())
    assert trained[:, 0, 15].tolist() == [255, 255, 255]
    for image in (file, Image.open(file)):
        assert torch.equal(PROCESSOR(images=image)["pixel_values"][0], trained)


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    picture = Image.fromarray(array(16, 16, 3))
    rotated = Image.Exif()
    rotated[0x0112] = 3  # upside down
    picture.save(tmp_path / "a.png", exif=rotated)
    found = PROCESSOR(images=tmp_path / "a.png")["pixel_values"]
    assert torch.equal(found, PROCESSOR(images=picture)["pixel_values"].flip(2, 3))


def test_texts_are_prepared_as_in_training() -> None:
    text = TOKENIZERS["text"]
    texts = ["digit zero", "<|spe|> is a very long text with more words than fit"]
    features = PROCESSOR(text=texts)
    expected = text.tokens([text.prepare(item) for item in texts])
    assert torch.equal(features["input_ids"], expected.values)
    assert torch.equal(features["attention_mask"].bool(), expected.mask)
    assert PROCESSOR(text="digit zero")["input_ids"].shape[0] == 1


def test_processors_tokenizers_are_those_of_training() -> None:
    found = PROCESSOR.tokenizers
    assert found["image"].spec == TOKENIZERS["image"].spec
    assert found["text"].tokenizer.to_str() == TOKENIZERS["text"].tokenizer.to_str()


def test_a_saved_processor_reloads_in_parts_and_as_a_whole(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    inputs = {"images": [array(30, 40, 3)], "text": ["latin small letter e", "<|spe|>"]}
    whole = AutoProcessor.from_pretrained(folder)
    assert isinstance(whole, UnifiedProcessor)
    before, after = PROCESSOR(**inputs), whole(**inputs)
    assert all(torch.equal(before[name], after[name]) for name in before)
    pixels = AutoImageProcessor.from_pretrained(folder)(images=inputs["images"], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, before["pixel_values"])
    ids = AutoTokenizer.from_pretrained(folder)(inputs["text"], padding=True, return_tensors="pt")
    assert torch.equal(ids["input_ids"], before["input_ids"])


def test_a_further_modality_that_no_package_brings_is_named(tmp_path: Path) -> None:
    file = exported(tmp_path) / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "specs": {"audio": {"rate": 16000}}}))
    with pytest.raises(UserError, match=r"specs: expected a modality, got 'audio'.*There are: image, text"):
        AutoProcessor.from_pretrained(tmp_path)


def test_a_folder_of_tokenizers_is_one_of_hugging_face() -> None:
    loaded = AutoTokenizer.from_pretrained("tokenizers/text")
    text = TOKENIZERS["text"]
    assert loaded("digit <|spe|>", truncation=True, max_length=8)["input_ids"] == text.prepare("digit <|spe|>")
    assert loaded.mask_token_id == text.spe


def test_newer_processor_is_refused(tmp_path: Path) -> None:
    file = exported(tmp_path) / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(RecipeError, match="expected a format up to 1"):
        AutoProcessor.from_pretrained(tmp_path)


def test_mistakes_have_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    for images, message in [
        (tmp_path / "none.png", "no such file"),
        ("https://example.org/a.png", "are not fetched"),
        (tmp_path / "broken.png", "not a readable image"),
        ([], "list is empty"),
        (torch.zeros(3, 8, 8), r"found torch.float32 of shape \(3, 8, 8\)"),
        (array(8, 8, 4), r"of shape \(4, 8, 8\)"),
        (7, "found int"),
    ]:
        with pytest.raises(DataError, match=message):
            PROCESSOR(images=images)
    with pytest.raises(DataError, match="one length"):
        PROCESSOR(images=[torch.zeros(2, 3, 8, 8).byte(), torch.zeros(1, 3, 8, 8).byte()])
    with pytest.raises(DataError, match="nothing to process"):
        PROCESSOR()
    with pytest.raises(DataError, match="expected a text"):
        PROCESSOR(text=[3])
    with pytest.raises(TypeError, match="imagess"):
        PROCESSOR(imagess=[])
