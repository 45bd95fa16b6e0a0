"""Videos in shards and animated images: every frame is read, or refused by name."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from dense_sources import build as build_annotated
from dense_sources import fill, picture, png
from PIL import Image
from torch import Tensor

from unified.cli.ends import guarded
from unified.cli.main import call
from unified.config.recipe import Recipe
from unified.config.task import Answer, Task
from unified.core.errors import DataError
from unified.core.schema import build
from unified.data.augment.augment import augment, build_transforms
from unified.data.builders.dense import Options
from unified.data.commands import shards
from unified.data.samples.decode import decode, decode_map, read_image
from unified.data.shards.patterns import read_manifest
from unified.data.shards.shards import Shards
from unified.data.shards.verify import verify
from unified.data.shards.write import ShardWriter
from unified.hub.load import load
from unified.modalities.image.files import count_frames_in, decode_frames, decode_image
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer
from unified.modalities.text.tokenizer import TextTokenizer
from unified.pipeline.collate import Collator
from unified.pipeline.dense_collate import SceneCollator
from unified.train.dry_run.plan import make_plan
from unified.train.dry_run.report import dry_run
from unified.train.loop import run

SPEC = ImageSpec(16, 16, (0.5,) * 3, (0.5,) * 3)
Capture = pytest.CaptureFixture[str]


def animated(count: int, kind: str = "GIF", size: tuple[int, int] = (16, 12), **options: Any) -> bytes:
    """An image whose frames grow redder, as a file."""
    frames = [Image.new("RGB", size, (number * 60, 0, 0)) for number in range(count)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


def array(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def clip(seed: int, frames: int = 4, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 3, side, side), dtype=np.uint8)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_all_frames_of_an_animated_image_are_decoded(kind: str, options: dict[str, Any]) -> None:
    data = animated(4, kind, **options)
    video = decode_frames(data)
    assert (count_frames_in(data), tuple(video.shape), video.dtype) == (4, (4, 3, 12, 16), torch.uint8)
    assert video[:, 0, 5, 5].tolist() == [0, 60, 120, 180]
    with pytest.raises(ValueError, match="expected one image, got 4 frames"):
        decode_image(data)
    still = animated(1, kind, **options)
    assert (count_frames_in(still), tuple(decode_frames(still).shape)) == (1, (3, 12, 16))


def test_images_beside_the_frames_are_none_of_them() -> None:
    video = decode_frames(animated(4, "PNG", default_image=True))  # the first is for viewers that know no animation
    assert video[:, 0, 0, 0].tolist() == [60, 120, 180]
    assert count_frames_in(animated(2, "MPO")) == 1  # a photograph and its preview
    assert decode_frames(animated(2, "MPO")).dim() == 3
    large, small = Image.new("RGB", (16, 12), (9, 0, 0)), Image.new("RGB", (4, 3))
    small.encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]  # a smaller version of the other page
    buffer = io.BytesIO()
    large.save(buffer, "TIFF", save_all=True, append_images=[small])
    assert decode_frames(buffer.getvalue()).shape == (3, 12, 16)


def test_frames_are_turned_upright_and_lie_on_white() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("TIFF", "PNG", "WEBP"):
        assert decode_frames(animated(2, kind, exif=exif)).shape == (2, 3, 16, 12)
    clear = [Image.new("RGBA", (4, 4), (shade, 0, 0, 0)) for shade in (0, 90)]
    buffer = io.BytesIO()
    clear[0].save(buffer, "PNG", save_all=True, append_images=clear[1:])
    assert (decode_frames(buffer.getvalue()) == 255).all()


def test_frames_that_cannot_be_read_together_are_refused() -> None:
    pages = [Image.new("RGB", (16, 12)), Image.new("RGB", (8, 6))]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="2 frames or pages of different sizes"):
        decode_frames(buffer.getvalue())
    with pytest.raises(ValueError, match="4 frames of 16×12 pixels are more than the limit of 767"):
        decode_frames(animated(4), 767)
    grey = [Image.new("L", (4, 4), shade) for shade in (0, 1)]
    buffer = io.BytesIO()
    grey[0].save(buffer, "PNG", save_all=True, append_images=grey[1:])
    with pytest.raises(ValueError, match="expected one map, got 2 frames"):
        decode_map(buffer.getvalue())


def sample(name: str, value: Any) -> dict[str, Any]:
    return {"__key__": "7", "__shard__": "s.tar", name: value}


def test_a_video_column_is_read() -> None:
    assert torch.equal(read_image(sample("npy", clip(0)), "npy", 4), torch.from_numpy(clip(0)))
    assert read_image(sample("npy", clip(0, 1)), "npy", 1).shape == (3, 16, 16)
    assert read_image(sample("npy", clip(0)[0]), "npy", 1).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (clip(0).astype(np.float32), r"got float32 \(4, 3, 16, 16\)"),
        (clip(0).astype(np.int64), "got int64"),
        (np.moveaxis(clip(0), 1, -1), r"got uint8 \(4, 16, 16, 3\)"),
        (clip(0)[:0], r"got uint8 \(0, 3, 16, 16\)"),
        (clip(0)[:, :, :0], r"got uint8 \(4, 3, 0, 16\)"),
        (clip(0)[None], "got uint8"),
        (clip(0)[0, 0], "got uint8"),
        ("text", "got str"),
        (clip(0, 9), r"expected at most 8 frames \(model.modalities.image.frames\), got 9. Hint: .*at least 9"),
    ],
)
def test_other_columns_are_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"s\.tar: 7: column 'npy': .*{message}"):
        read_image(sample("npy", value), "npy", 8)


def test_task_queries_read_one_image() -> None:
    task = Task("x", {"gif": "image"}, "edges.png", Answer.of(map="share"), "score", 1)
    collator = SceneCollator("edges", task, ImageTokenizer(SPEC, 8, 8), (), (), 0)
    with pytest.raises(DataError, match=r"s\.tar: 7: column 'gif': expected one image, as task queries read it, got 4"):
        collator.example(sample("gif", decode_frames(animated(4))))


EVERY = [
    {"kind": "crop", "size": 12},
    {"kind": "affine", "degrees": 20, "translate": 0.1},
    {"kind": "elastic"},
    {"kind": "stroke"},
    {"kind": "pixelate", "cells": [5, 9]},
    {"kind": "blur"},
    {"kind": "contrast", "contrast": [0.5, 1.5], "gamma": [0.7, 1.5]},
    {"kind": "saturation"},
    {"kind": "noise"},
    {"kind": "flip"},
    {"kind": "invert"},
]


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry["kind"])
def test_all_frames_are_changed_by_one_draw(entry: dict[str, Any]) -> None:
    frame, other = (torch.from_numpy(clip(seed, 1)[0]) for seed in (1, 2))

    def changed(*images: Tensor) -> list[Tensor]:
        transforms = build_transforms([entry], "augment", ["image"])["image"]
        return augment(images, transforms, np.full(len(images), 11), 0, "task")

    alone, alone_too = changed(frame, other)
    grey = frame[:1].expand(3, -1, -1)
    for frames in ([frame], [frame, frame], [frame, other, frame], [grey] * 3):
        (video,) = changed(torch.stack(frames))
        assert (video.dim(), len(video), video.dtype) == (4, len(frames), torch.uint8)
        expected = {id(frame): alone, id(other): alone_too}
        for after, before in zip(video, frames, strict=True):
            assert torch.equal(after, expected[id(before)] if id(before) in expected else changed(grey)[0])


def collator(transforms: Any = (), side: int = 16, frames: int = 8) -> Collator:
    image = ImageTokenizer(replace(SPEC, height=side, width=side), 8, frames)
    tokenizers = {"image": image, "text": TextTokenizer.load("text", max_length=16)}
    task = Task("x", {"npy": "image"}, "txt", Answer.of(candidates="batch"), "accuracy", 4, augment=transforms)
    return Collator("clips", task, tokenizers, None, 0)


@pytest.mark.parametrize("side", [16, 640])
@pytest.mark.parametrize("lengths", [(4, 4), (4, 1, 2), (1, 1), (1, 3)])
def test_videos_of_several_lengths_are_padded_in_a_batch(lengths: tuple[int, ...], side: int) -> None:
    made = collator(side=side)
    samples = [{"__key__": f"{n}", "npy": clip(n, length), "txt": f"clip {n}"} for n, length in enumerate(lengths)]
    rows = made.rows(len(samples))
    assert (rows is None) == (side == 16)  # large images are cut where they lie
    examples = [made.example(one, rows, row) for row, one in enumerate(samples)]
    tokens = made.batch(examples, np.arange(len(samples)), rows).inputs["image"]
    patches = (side // 8) ** 2
    assert tokens.values.shape == (len(lengths), patches * max(lengths), 192)
    assert tokens.mask.sum(1).tolist() == [patches * length for length in lengths]
    for row, one in enumerate(samples):
        (alone,) = made.tokenizers["image"].tokens([made.tokenizers["image"].prepare(read_image(one, "npy"))]).values
        assert torch.equal(tokens.values[row, : len(alone)], alone)
    longest = tokens.position[lengths.index(max(lengths)), :, 0]
    assert longest.unique().tolist() == list(range(max(lengths)))


def test_a_row_that_held_a_video_may_hold_an_image_afterwards() -> None:
    made = collator(side=640)
    rows = made.rows(1)
    assert rows is not None
    for length in (3, 1):
        made.example({"__key__": "0", "npy": clip(0, length), "txt": "a"}, rows, 0)
    assert rows.tokens().values.shape == (1, 6400, 192)


RECIPE = """
max_steps: 3
slots: 1
model: {width: 64, depth: 2, heads: 2, hidden: 128, layer_scale: null, modalities: {image: {tokenizer: image_glyph,
  patch: 4, frames: 8}, text: {max_length: 16, positions: 16}}}
data: {workers: 0}
train: {log_every: 1}
tasks:
  clips: {data: DATA, inputs: {"npy;gif": image}, target: txt, answer: {candidates: batch}, metric: accuracy, batch: 4,
    augment: [{kind: affine, degrees: 10}, {kind: saturation}]}
"""


def recipe(data: Path, **image: Any) -> Recipe:
    content = yaml.safe_load(RECIPE.replace("DATA", str(data)))
    content["model"]["modalities"]["image"] |= image
    return build(Recipe, content, "clips.yaml")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of videos of 2 to 4 frames and animated images."""
    folder = tmp_path_factory.mktemp("clips") / "data"
    with ShardWriter(folder, kind="test", source="here") as writer:
        for number in range(12):
            video = {"gif": animated(4)} if number % 4 == 3 else {"npy": array(clip(number, 2 + number % 3))}
            writer.write(f"{number:04d}", {**video, "txt": f"clip {number}"})
    return folder


@pytest.fixture(scope="module")
def trained(clips: Path) -> Path:
    run(recipe(clips), clips.parent / "run")
    return clips.parent / "run"


def test_videos_train(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    losses = [line[name] for line in lines for name in line if "loss" in name and "clips" in name]
    assert losses
    assert np.isfinite(losses).all()


def test_a_video_is_embedded_alike_alone_and_beside_longer_ones(trained: Path) -> None:
    model, processor = load(trained)
    image = processor.tokenizers["image"]
    videos = [image.prepare(torch.from_numpy(clip(number, frames))) for number, frames in enumerate((4, 2, 3))]
    together = model.embed({"image": image.tokens(videos)})
    alone = torch.cat([model.embed({"image": image.tokens([video])}) for video in videos])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    frames = torch.cat([model.embed({"image": image.tokens([video[0]])}) for video in videos])
    assert (frames - alone).abs().amax(1).min() > 1e-3  # all frames are looked at


def test_a_dry_run_counts_the_tokens_of_videos(clips: Path, capsys: Capture, caplog: Any) -> None:
    made = recipe(clips)
    dry_run(made)
    tokens = make_plan(made).slots["clips"].work.tokens
    assert f"{tokens:,}" in capsys.readouterr().out
    videos = [decode(Shards.open(clips)[number], ["npy;gif"]) for number in range(12)]
    lengths = [len(read_image(one, "npy;gif")) for one in videos]
    assert 4 * 16 * min(lengths) < tokens
    assert make_plan(recipe(clips.parent / "absent")).slots["clips"].work.tokens < tokens  # assumed: still images
    with caplog.at_level("WARNING", "unified"):
        make_plan(recipe(clips, frames=2))
    assert "bad sample, replaced by the next good one" in caplog.text


def test_videos_are_evaluated(clips: Path, trained: Path, tmp_path: Path) -> None:
    spec = {"pairs": {"kind": "retrieval", "data": str(clips), "inputs": {"npy;gif": "image"}, "ks": [1]}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"evaluations": spec}))
    guarded(call, ["eval", str(trained), str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "r.json")], "")
    found = json.loads((tmp_path / "r.json").read_text())["results"]
    assert {row["n"] for row in found} == {12}


def test_more_frames_than_the_model_reads_are_bad_samples(clips: Path, tmp_path: Path, caplog: Any) -> None:
    with pytest.raises(DataError, match=r"samples could not be used.*expected at most 3 frames \(model.modalities"):
        run(recipe(clips, frames=3), tmp_path / "run")
    assert "column 'npy;gif': expected at most 3 frames (model.modalities.image.frames), got 4" in caplog.text


def test_inspect_shows_videos(clips: Path, tmp_path: Path, capsys: Capture) -> None:
    shards.inspect(str(clips), tmp_path / "sheet.png")
    printed = capsys.readouterr().out
    assert "4 frames of 16×12" in printed
    assert "uint8 3×3×16×16" in printed
    assert "12 pictures drawn" in printed


CAPTIONS = {"a.gif": animated(4), "a.txt": "red grows", "b.png": picture(), "b.txt": "still"}


@pytest.mark.parametrize("kind", ["pairs", "imagefolder", "table"])
def test_builders_say_how_many_frames_images_have(kind: str, tmp_path: Path, capsys: Capture, caplog: Any) -> None:
    files: dict[str, Any] = {"d/more.webp": animated(3, "WEBP"), "d/more.txt": "more"}
    if kind == "imagefolder":
        files = {f"red/{name}": data for name, data in CAPTIONS.items()} | {"blue/more.webp": files["d/more.webp"]}
    files |= CAPTIONS if kind != "imagefolder" else {}
    source, options = fill(tmp_path / "raw", files), Options()
    if kind == "table":
        (source / "t.csv").write_text("image,caption\na.gif,x\nb.png,y\nd/more.webp,z\n")
        source, options = source / "t.csv", Options(columns="image=path,caption=txt")
    with caplog.at_level("INFO", "unified"):
        shards.build(str(source), tmp_path / "out", kind=kind, options=options)
    printed = capsys.readouterr().out
    assert "2 of 3 images are animated (3 to 4 frames)" in printed
    assert "model.modalities.image.frames" in printed
    assert ": 4" in caplog.text
    assert read_manifest(tmp_path / "out")["frames"] == {"1": 1, "3": 1, "4": 1}
    shards.verify(str(tmp_path / "out"))
    assert "2 of 3 images are animated (3 to 4 frames)" in capsys.readouterr().out
    shards.build(str(source), tmp_path / "out", kind=kind, options=options, skip_existing=True)
    assert "2 of 3 images are animated" in capsys.readouterr().out


def test_stills_are_not_spoken_of(tmp_path: Path, capsys: Capture) -> None:
    files = {"a.gif": animated(1), "a.txt": "one", "b.png": picture(), "b.txt": "still"}
    shards.build(str(fill(tmp_path / "raw", files)), tmp_path / "out", kind="pairs")
    assert "animated" not in capsys.readouterr().out
    assert "frames" not in read_manifest(tmp_path / "out")


def test_annotations_are_of_one_image(tmp_path: Path) -> None:
    mask = png(np.zeros((12, 16), np.uint8))
    files = {
        "images/a.png": animated(3, "PNG"),
        "masks/a.png": mask,
        "images/b.png": picture(12, 16),
        "masks/b.png": mask,
    }
    source = fill(tmp_path / "raw", files)
    with pytest.raises(DataError, match=r"1 × animated image\n  animated image: images/a.png: 3 frames"):
        build_annotated("masks", source, tmp_path / "out", classes="ground")
    manifest = build_annotated("masks", source, tmp_path / "out", classes="ground", skip_bad=True)[""]
    assert manifest["samples"] == 1
    assert len(manifest["skipped"]) == 1
    with ShardWriter(tmp_path / "d", kind="test", source="here") as writer:
        writer.write("a", {"gif": animated(4), "json": {"width": 16, "height": 12, "attributes": {"red": 1}}})
    assert any("column 'gif': 4 frames" in problem for problem in verify(tmp_path / "d").problems)
