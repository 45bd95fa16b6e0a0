"""`unified predict`: what a model's tasks answer about pictures."""

from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from unified.cli.app import command
from unified.core import consent


@command("predict")
def predict(
    model: Annotated[str, Positional, arg(metavar="MODEL")],
    images: Annotated[tuple[Path, ...], Positional, arg(metavar="IMAGE…")],
    /,
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK …")] = (),
    names: Annotated[tuple[str, ...], arg(metavar="TASK=NAME,NAME …")] = (),
    labels: Annotated[tuple[str, ...], arg(metavar="LABEL …")] = (),
    threshold: float = 0.3,
    aspect: bool = False,
    flip: bool = False,
    window: Annotated[tuple[int, int] | None, arg(metavar="HEIGHT WIDTH")] = None,
    coco: bool = False,
    coco_annotations: Annotated[Path | None, arg(metavar="FILE")] = None,
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("predictions"),
    allow_commands: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Ask tasks about pictures, and draw all answers about each: masks, boxes, points, maps, captions and labels.

    Writes FOLDER/NAME.png for each image, and FOLDER/predictions.json with all answers. Tasks that queries answer share
    one pass over the encoder where their images have one size. Images that cannot be read are named at the end.

    Example: unified predict runs/mine a.jpg b.jpg --tasks objects depth --names objects=zebra,horse --out predicted

    Args:
        model: A run (its newest complete checkpoint), an exported folder, or a hub name.
        images: Files, and folders, of which all images are taken.
        tasks: Some of the model's tasks; default: all about images: what queries answer, captions, label sets.
        names: Other names for tasks whose queries are made from names (answer.from_names).
        labels: Words to choose from for the whole image, or one name of a label set (labels/NAME, a file).
        threshold: The lowest score of objects and points that are told.
        aspect: Keep the aspect of images instead of squashing them to the task's size.
        flip: Average with the mirrored image; not for boxes and masks of objects.
        window: Ask about windows of so many pixels, and average; for maps alone.
        coco: Write FOLDER/coco_TASK.json besides, results that pycocotools' loadRes reads, for tasks with boxes, masks
            or points.
        coco_annotations: COCO annotations from which these take the numbers of images and categories.
        out: Folder to write.
        allow_commands: Let the address be fetched that a run names for its checkpoints; look at it first.
    """
    from dataclasses import replace

    from unified.model.inference import Views
    from unified.reports.prediction.predict import Ask, predict_command

    ask = Ask(tasks, names, labels, threshold, Views(aspect=aspect, flip=flip, window=window))
    ask = replace(ask, coco=coco or coco_annotations is not None, coco_annotations=coco_annotations)
    with consent.allow_commands(None if allow_commands else ()):
        predict_command(model, images, ask, out)
