"""The command `unified predict`: what a model's tasks answer about pictures, drawn over them and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from unified.answers import ANSWERS
from unified.answers.match.classification import CLASSIFICATION
from unified.config.labels import Labels, check_unique, load_labels
from unified.core.atomic_files import replace_file, replacing
from unified.core.errors import DataError, UserError, nearest
from unified.core.folders import walk_folder
from unified.core.log import logger
from unified.data.shards.patterns import natural
from unified.modalities import MODALITIES
from unified.modalities.image.formats import FORMATS, IMAGES, describe_others, read_start, sort_images
from unified.modalities.image.frames import check_frames
from unified.modalities.image.reading import read_images
from unified.model.inference import Views, see
from unified.reports.coco_results import CocoResults
from unified.reports.matched import matched_tasks
from unified.reports.prediction.drawing import Matched, Prediction
from unified.reports.prediction.drawings import find_drawing
from unified.reports.prediction.figure import sheet
from unified.reports.source import FORMAT, Subject, open_subject

ASKED = "labels"
"""What labels of the command line are called among the answers."""


@dataclass(frozen=True)
class Ask:
    """What `unified predict` is asked for."""

    tasks: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    threshold: float = 0.3
    views: Views = field(default_factory=Views)
    coco: bool = False
    coco_annotations: Path | None = None


@dataclass(frozen=True)
class Questions:
    """The tasks of one model that are asked about every picture."""

    queries: tuple[str, ...]  # those that queries answer, in one pass over the encoder
    names: Mapping[str, tuple[str, ...]]  # other names for some of them
    encoded: Mapping[str, Tensor]  # the representations of names that queries are made of, by task
    matched: Mapping[str, Matched]


def predict_command(reference: str, images: Sequence[Path], ask: Ask, out: Path) -> None:
    """Write OUT/NAME.png for each image and OUT/predictions.json; at the end an error if some could not be read.

    An animated image is asked about as a video, and drawn by its first frame; task queries do not read it.
    """
    if not images:
        raise UserError("no images are named; give at least one file after the model")
    images, failed = expanded(images, out)
    if not 0 <= ask.threshold <= 1:
        raise UserError(f"--threshold: {ask.threshold}; expected a score from 0 to 1")
    subject = open_subject(reference)
    questions = chosen(subject, matched_tasks(reference, subject.model.config), ask)
    coco = CocoResults(ask.coco_annotations) if ask.coco else None
    out.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, dict[str, Any]] = {}
    for file in images:
        try:
            (picture,) = read_images([file])
            _check_frames(file, picture, subject, questions)
        except DataError as error:
            logger.warning("%s", error)
            failed.append({"file": str(file), "error": str(error)})
            continue
        shown = answer(subject, questions, picture, ask.views)
        if coco is not None:
            coco.add(file, (picture.shape[-2], picture.shape[-1]), shown, ask.threshold)
        name = free_name(file.stem, pictures)
        first = picture if picture.dim() == 3 else picture[0]
        with replacing(out / name) as png:
            sheet(first, shown, ask.threshold).save(png, "PNG")
        pictures[name] = {
            "file": str(file),
            "picture": name,
            "height": picture.shape[-2],
            "width": picture.shape[-1],
            **({"frames": len(picture)} if picture.dim() == 4 else {}),
            "answers": {each.task: told(each, ask.threshold) for each in shown},
        }
        logger.info("%s: %s", file, out / name)
    content = {"format": FORMAT, "model": reference, "source": subject.source, "threshold": ask.threshold}
    path = out / "predictions.json"
    text = json.dumps({**content, "images": [*pictures.values()], "failed": failed}, indent=1)
    replace_file(path, text + "\n")
    logger.info("%s: %d images, tasks %s", path, len(pictures), ", ".join([*questions.queries, *questions.matched]))
    if coco is not None and pictures:
        logger.info("written: %s", ", ".join(map(str, coco.write(out))))
    if failed:
        total = len(pictures) + len(failed)
        raise UserError(
            f"{len(failed)} of {total} images could not be read, the others are in {out}: {failed[0]['error']}"
        )


def expanded(given: Sequence[Path], out: Path) -> tuple[list[Path], list[dict[str, str]]]:
    """Return files, with all images of each folder in its place; those of `out` are answers of before.

    Returns:
        The files, and for each file or folder in a folder that cannot be taken its path and the error.
    """
    found: list[Path] = []
    failed: list[dict[str, str]] = []
    old = out.resolve()
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        listed = walk_folder(path)
        for passed in listed.passed_over:
            if passed.name.endswith("/") or passed.suffix.removeprefix(".") in IMAGES:
                logger.warning("%s: %s: %s", path, passed.kind, passed.where)
                failed.append({"file": str(path / passed.name), "error": f"{path}: {passed.kind}: {passed.where}"})
        inside = [path / name for name in listed.files]
        kept = [file for file in inside if not (old.is_dir() and old in file.resolve().parents)]
        names, others = sort_images(map(str, kept), lambda name: read_start(Path(name)))
        if others:
            logger.info("%s: %s", path, describe_others(others))
        if not names:
            raise UserError(
                f"{path}: expected a folder with images ({', '.join(FORMATS)}), got none in it. Hint: name files, or "
                "another folder"
            )
        found += sorted(map(Path, names), key=natural)
    return found, failed


def _check_frames(file: Path, picture: UInt8[Tensor, "*t 3 h w"], subject: Subject, questions: Questions) -> None:
    """Refuse, with `DataError`, an animated image that the model or one of the tasks does not read."""
    check_frames(picture, subject.model.config.spatial["frames"], str(file))
    if picture.dim() == 4 and questions.queries:
        raise DataError(
            f"{file}: expected one image for {', '.join(questions.queries)}, got {len(picture)} frames. Hint: save one "
            "frame by itself, or name other tasks with --tasks"
        )


def chosen(subject: Subject, matched: Mapping[str, Matched], ask: Ask) -> Questions:
    """The tasks that are asked for, or all; errors about names that there are not."""
    specs = subject.model.queries.specs if subject.model.queries is not None else {}
    known = [*specs, *(name for name in matched if name not in specs)]
    for name in ask.tasks:
        if name not in known:
            raise UserError(f"--tasks: {name!r} is not a task of this model{nearest(name, known)}")
    tasks = tuple(dict.fromkeys(ask.tasks or known))
    if not tasks and not ask.labels:
        raise UserError(
            "this model has no tasks to predict with: it was trained without queries, and lists no captions or labels; "
            "give words with --labels"
        )
    queries = tuple(name for name in tasks if name in specs)
    own = {name: matched[name] for name in tasks if name not in specs}
    asked = {ASKED: Matched(CLASSIFICATION, None, words(ask.labels))} if ask.labels else {}
    free = {name: task for name, task in own.items() if task.labels is None}
    labelled = {name: task for name, task in own.items() if task.labels is not None}
    names = other_names(subject, queries, ask.names)
    # A mirrored picture is told by its words which points are those of the other side.
    encoded = {} if ask.views.flip else encoded_names(subject, queries, names)
    return Questions(queries, names, encoded, {**free, **asked, **labelled})


def words(given: Sequence[str]) -> Labels:
    """The labels that are written out, or those of the label set that one word refers to."""
    only = given[0]
    if len(given) == 1 and (only.startswith("labels/") or Path(only).is_file()):
        return load_labels(only)
    return Labels(tuple(given))


def other_names(subject: Subject, queries: Sequence[str], given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`task=a,b` as names by task; an error for a task that answers for none but its own."""
    found = {}
    for entry in given:
        task, equals, listed = entry.partition("=")
        if not equals:
            raise UserError(f"--names: {entry!r}; expected TASK=NAME,NAME")
        if task not in queries:
            raise UserError(f"--names: {task!r} is not a task that is asked{nearest(task, list(queries))}")
        spec = subject.model.queries.specs[task]  # type: ignore[union-attr]
        names = check_unique(Labels(tuple(name.strip() for name in listed.split(","))), f"--names: {task}").names
        if not spec.from_names:
            raise UserError(
                f"--names: task {task!r} learned the queries of its {len(spec.names)} names and cannot answer for "
                f"{len(names)} others; train it with answer.from_names to ask for any"
            )
        found[task] = names
    return found


@torch.no_grad()
def encoded_names(subject: Subject, queries: Sequence[str], names: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """The representations of all names that queries are made of, so that they are not encoded for every picture."""
    specs = {name: subject.model.queries.specs[name] for name in queries}  # type: ignore[union-attr]
    return {
        name: subject.model.candidates(names.get(name, spec.names), given=(MODALITIES.spatial,), family=spec.family)
        for name, spec in specs.items()
        if spec.from_names
    }


@torch.no_grad()
def answer(
    subject: Subject, questions: Questions, picture: UInt8[Tensor, "*t 3 h w"], views: Views
) -> list[Prediction]:
    """All answers about one picture, or about a video where nothing is asked of queries.

    Tasks with queries of one size share one pass over the encoder.
    """
    model, names, found = subject.model, questions.names, []
    given = {**names, **questions.encoded}
    if questions.queries:
        tokenizer = subject.tokenizers[MODALITIES.spatial]
        (answers,) = see(model, tokenizer, [picture], questions.queries, views, names=given or None)
        for task, of_task in answers.items():
            spec = model.queries.specs[task]  # type: ignore[union-attr]
            on_cpu = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in of_task.items()}
            found.append(Prediction(task, ANSWERS[spec.read], on_cpu, names.get(task, spec.names), spec))
    inputs = model.processor(images=[picture]) if questions.matched else None
    for task, matched in questions.matched.items():
        predict = find_drawing(matched.kind).predict
        assert predict is not None
        labels = () if matched.labels is None else matched.labels.names
        found.append(Prediction(task, matched.kind, predict(model, inputs, matched), labels))
    return found


def told(found: Prediction, threshold: float) -> dict[str, Any]:
    """Return an answer as JSON holds it; objects with a score below `threshold` are left out."""
    return {"read": found.kind.name, **find_drawing(found.kind).facts(found, threshold)}


def free_name(stem: str, taken: Mapping[str, Any]) -> str:
    """STEM.png, or with a number where another image is called so."""
    number, name = 1, f"{stem}.png"
    while name in taken:
        number += 1
        name = f"{stem}-{number}.png"
    return name
