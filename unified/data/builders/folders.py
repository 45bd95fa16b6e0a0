"""Shards from a user's pictures: a folder of class folders, or pictures with captions in files of the same name."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

from unified.config.labels import CLASS_NAMES
from unified.core.errors import DataError
from unified.core.folders import suffix_of
from unified.core.text_files import same_text
from unified.data.builders.dense import Options
from unified.data.builders.held_out import (
    check_order,
    check_packed,
    counted,
    held_out_facts,
    split_items,
    write_parts,
)
from unified.data.builders.sources import (
    BadSampleError,
    Files,
    Item,
    Problems,
    caption,
    pack,
    picture,
    sample_key,
)
from unified.data.class_folders import read_class_folders, split_folders
from unified.data.shards.write import ShardWriter, complete_folder


def build_imagefolder(source: Path, out: Path, options: Options) -> dict[str, dict[str, Any]]:
    """Pack SOURCE/CLASS/… or SOURCE/SPLIT/CLASS/…; returns the manifest of each split, or one under "".

    Columns: the picture's bytes under its suffix, `cls` (place of the class in the sorted list), `txt` (its name, as
    `class_folders` makes it of the folder's).
    `options.held_out` parts each class into "train" and "test". Raises `DataError` listing unreadable pictures, empty
    classes and duplicate keys, unless `options.skip_bad`.
    """
    with Files(source) as files:
        problems = Problems(source, options.skip_bad)
        files.report(problems)
        images = files.images()
        pictures = {split: _by_class(files, images, split, problems) for split in split_folders(images, files.folders)}
        if options.held_out is not None:
            pictures = _parted(source, pictures, options)
        classes = sorted({name for members in pictures.values() for name in members.values()})
        number = {name: place for place, name in enumerate(classes)}
        manifests, written = {}, 0
        counts: dict[str, Counter[str]] = {split: Counter() for split in pictures}
        with complete_folder(out) as folder, ExitStack() as stack:
            for split, members in pictures.items():
                writer = ShardWriter(
                    folder / split, kind="imagefolder", source=source.name, samples_per_shard=options.samples_per_shard
                )
                above = split if options.held_out is None else ""  # the folder that the names in a split begin with
                items = [
                    counted(_classified(files, above, name, label, number[label]), label, counts[split])
                    for name, label in members.items()
                ]
                stack.enter_context(writer)
                problems.part = split
                written += pack(writer, items, problems, "images")
                writer.manifest |= {"classes": classes, "class_counts": dict(sorted(counts[split].items()))}
                writer.manifest |= held_out_facts(options)
                manifests[split] = writer.manifest
            facts = problems.settle(written)
            if options.held_out is not None:
                check_packed(source, counts)
            for split, manifest in manifests.items():
                manifest |= facts(split)
            (folder / CLASS_NAMES).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    return manifests


def _parted(source: Path, pictures: Mapping[str, dict[str, str]], options: Options) -> dict[str, dict[str, str]]:
    """The pictures of a folder of class folders by part, each class parted for itself."""
    check_order(options.held_out_by)
    if "" not in pictures:
        raise DataError(
            f"{source}: --held-out: expected class folders, got the parts {', '.join(pictures)} with classes in them. "
            "Hint: leave --held-out out, and the parts stay what they are"
        )
    members = pictures[""]
    items = [Item(sample_key(name), name, dict) for name in members]  # files of one key are one sample, in one part
    parts = split_items(source, items, options, classes={item.key: members[item.name] for item in items})
    return {split: {item.name: members[item.name] for item in found} for split, found in parts.items()}


def _by_class(files: Files, images: Sequence[str], split: str, problems: Problems) -> dict[str, str]:
    """The pictures of a split, each with the name of its class."""
    found = read_class_folders(images, files.folders, split)
    for name in found.loose:
        problems.add("image outside a class folder", name)
    for name in found.empty:
        problems.add("class without images", name)
    return found.images


def _classified(files: Files, split: str, name: str, label: str, number: int) -> Item:
    def load() -> dict[str, Any]:
        column, data = picture(files.read(name), name, str(files.source))
        return {column: data, "cls": number, "txt": label}

    return Item(sample_key(name.removeprefix(f"{split}/") if split else name), name, load)


def build_pairs(source: Path, out: Path, options: Options) -> dict[str, dict[str, Any]]:
    """Pack pictures with the .txt files of the same name, wherever they lie in the tree.

    Returns one manifest under "", or those of "train" and "test" with `options.held_out`. Raises `DataError` listing
    unreadable pictures, missing or empty captions and duplicate keys, unless `options.skip_bad`.
    """
    check_order(options.held_out_by)
    with Files(source) as files:
        problems = Problems(source, options.skip_bad)
        files.report(problems)
        texts = caption_files(files.names)
        items = [_paired(files, name, texts) for name in files.images()]
        used = {text for name in files.images() for text in captions_of(name, texts)}
        for alone in sorted(text for several in texts.values() for text in several if text not in used):
            problems.add("caption without image", alone)
        parts = split_items(source, items, options)
        return write_parts("pairs", source, out, parts, problems, options, "pairs")


def caption_files(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the .txt files by their path without suffix, in composed form: macOS stores decomposed names."""
    found: dict[str, list[str]] = {}
    for name in names:
        if suffix_of(name) == ".txt":
            found.setdefault(same_text(_stem(name)), []).append(name)
    return found


def captions_of(image: str, texts: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Return the captions of an image among the .txt files that `caption_files` found."""
    return texts.get(same_text(_stem(image)), ())


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _paired(files: Files, name: str, texts: Mapping[str, Sequence[str]]) -> Item:
    found = captions_of(name, texts)

    def load() -> dict[str, Any]:
        if not found:
            raise BadSampleError("missing caption", f"{name}: no {_stem(name)}.txt")
        if len(found) > 1:
            raise BadSampleError("several captions", f"{name}: expected one caption, got {', '.join(found)}")
        column, data = picture(files.read(name), name, str(files.source))
        return {column: data, "txt": caption(files, found[0])}

    return Item(sample_key(name), name, load)
