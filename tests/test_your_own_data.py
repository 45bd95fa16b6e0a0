"""The guide docs/your-own-data.md, followed to the letter on made-up images, with fewer steps."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unified.cli.main import call
from unified.cli.train import train
from unified.config.model import ModelSettings
from unified.core.log import logger
from unified.modalities.image.settings import ImageSettings
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.modalities.text.settings import TextSettings

PAGE = Path(__file__).parent.parent / "docs" / "your-own-data.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS = {"max_steps: 300": "max_steps: 3", "max_steps: 100": "max_steps: 2", "save_every: 100": "save_every: 1"}


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def photos(folder: Path) -> None:
    """Two classes of coloured noise."""
    draw = np.random.default_rng(0)
    for name, colour in (("cup", (200, 60, 40)), ("plate", (60, 90, 210))):
        (folder / name).mkdir(parents=True)
        for number in range(1, 9):
            pixels = np.clip(np.array(colour) + draw.integers(-30, 30, (48, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.jpg")


def command(line: str) -> str:
    """Run a command of the page in this process; returns what it prints."""
    program, *arguments = shlex.split(line)
    assert program == "unified"
    words = [str(found) for word in arguments for found in (sorted(Path().glob(word)) if "*" in word else [word])]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if words[0] == "train":
            train(words[1:])
        else:
            call(words, "")
    return printed.getvalue()


def test_every_command_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logger, "handlers", [])  # what commands add writes to this test's standard error
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos(Path("photos"))
    printed: dict[str, str] = {}
    for kind, text in blocks():
        if kind == "yaml":
            name = re.match(r"# (\S+\.yaml)\n", text)
            assert name is not None
            for long, short in STEPS.items():
                text = text.replace(long, short)
            Path(name[1]).write_text(text, encoding="utf-8")
        elif kind == "sh":
            for line in text.splitlines():
                printed[line] = command(line)
        else:
            assert kind == "python"
            exec(compile(text, str(PAGE), "exec"), {})
    plan = printed["unified train photos.yaml --dry-run"]
    assert re.search(r"photos +40 × 48 +32 × 32 +4 +64\n", plan)
    assert "lose half of a side" not in plan
    assert re.search(r"photos +1\.000 .* 12 +8\.0\n", plan)  # 3 steps of 32 over 12 samples
    assert "12 samples in 1 shards are whole" in printed["unified shards verify data/photos/train"]
    assert "accuracy" in printed["unified eval runs/photos data/photos/test --out results.json"]
    assert "out/photos" in printed["unified train more.yaml --dry-run"]
    assert {path.name for path in Path("predicted").iterdir()} == {"001.png", "001-2.png", "predictions.json"}
    assert set(eval(capfd.readouterr().out.strip().splitlines()[-1])) == {"cup", "plate"}


def test_every_key_of_the_model_is_explained() -> None:
    recipe = next(text for kind, text in blocks() if kind == "yaml")
    model = recipe.partition("model:")[2].partition("\noptim")[0]
    for settings in (ModelSettings, ImageSettings, TextSettings):
        for key in settings.__dataclass_fields__:
            assert re.search(rf"^ +{key}:", model, re.MULTILINE), key


@pytest.mark.parametrize(("name", "side"), [("image_32", 32), ("image_64", 64)])
def test_small_photographs_have_specs(name: str, side: int) -> None:
    tokenizer = ImageTokenizer.load(name, side // 8)
    assert (tokenizer.height, tokenizer.width, tokenizer.spec.mode) == (side, side, "crop")
