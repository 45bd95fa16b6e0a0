"""`unified shards …`: build, look at, check and index shards."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

import unified.cli.convert  # adds its commands
import unified.cli.fold  # adds its commands
import unified.cli.predict  # adds its commands
import unified.cli.report  # noqa: F401 - adds its commands
from unified.cli.app import command, group

group("shards", "Build, look at, check and index shards.")


@command("shards build")
def shards_build(
    source: Annotated[str, Positional, arg(metavar="SOURCE")],
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    /,
    kind: Literal[
        "imagefolder",
        "pairs",
        "table",
        "coco",
        "yolo",
        "voc",
        "masks",
        "depth",
        "keypoints",
        "attributes",
        "boundaries",
    ]
    | None = None,
    columns: str | None = None,
    classes: str | None = None,
    ignore: int | None = None,
    depth_unit: float | None = None,
    crops: str | None = None,
    held_out: float | None = None,
    held_out_by: str = "key",
    samples_per_shard: int = 10_000,
    skip_existing: bool = False,
    skip_bad: bool = False,
) -> None:
    """Turn raw data into verified shards with index and manifest.

    Example: unified shards build photos/ data/photos --kind imagefolder --held-out 0.2

    Args:
        source: glyphs, digits, documentation, computer_modern (made from what the dependencies bundle), a folder or a
            table.
        out: Folder to write; it appears complete or not at all.
        kind: imagefolder: a folder a class; pairs: images with same-named .txt; table: CSV, TSV or JSONL. Annotated
            pictures: coco, yolo, voc, masks, depth, keypoints, attributes, boundaries (docs/data-format.md).
        columns: For tables, table column=sample column: image=path,title=txt; for attributes, what each column is:
            file=path,gender=attribute,person=identity.
        classes: For masks and voc, class names in the order of their numbers, a,b,c, or a file with a name a line.
        ignore: For masks and yolo, the number in index masks that means no label.
        depth_unit: For depth, metres a step of the depth pictures; default 0.001.
        crops: For coco, a class whose objects with joints become samples of their own, cut out (top-down poses).
        held_out: The fraction that goes to OUT/test, and the rest to OUT/train; of each class where samples have one
            class (imagefolder, table with cls).
        held_out_by: key: by a hash of each key; end: the last in sorted order, for frames of a video; of a table, a
            column whose equal values stay in one part; of annotated pictures, identity: all pictures of a fraction of
            the identities.
        samples_per_shard: Samples of one tar.
        skip_existing: Leave a complete folder as it is.
        skip_bad: Leave unreadable samples out, and list them in the manifest.
    """
    from unified.data.builders.dense import Options
    from unified.data.commands import shards

    options = Options(
        samples_per_shard=samples_per_shard,
        skip_bad=skip_bad,
        crops=crops,
        held_out=held_out,
        held_out_by=held_out_by,
        classes=classes,
        ignore=ignore,
        depth_unit=depth_unit,
        columns=columns,
    )
    shards.build(source, out, kind=kind, options=options, skip_existing=skip_existing)


@command("shards inspect")
def shards_inspect(
    path: Annotated[str, Positional, arg(metavar="PATH")],
    /,
    count: int = 32,
    out: Path = Path("contact_sheet.png"),
) -> None:
    """Show decoded samples: a table of text, and a contact sheet as PNG.

    Example: unified shards inspect data/glyphs/train --count 25

    Args:
        path: A folder of shards, or one shard.
        count: Samples to show, spread over the data.
        out: The PNG.
    """
    from unified.data.commands import shards

    shards.inspect(path, out, count=count)


@command("shards verify")
def shards_verify(path: Annotated[str, Positional, arg(metavar="PATH")], /) -> None:
    """Recompute hashes and decode everything; name shard, key and column of what is wrong.

    Example: unified shards verify data/glyphs/train

    Args:
        path: A folder of shards.
    """
    from unified.data.commands import shards

    shards.verify(path)


@command("shards index")
def shards_index(path: Annotated[str, Positional, arg(metavar="PATH")], /) -> None:
    """Write the index beside each shard anew.

    Example: unified shards index downloads/cc3m

    Args:
        path: A folder of shards, or one shard.
    """
    from unified.data.commands import shards

    shards.index(path)
