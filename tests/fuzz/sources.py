"""Annotated images as people have them, packed by the builders."""

import json
import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests.fuzz.doors import Door, files
from tests.fuzz.mutations import damage_bytes, damage_json, damage_yaml
from unified.data.builders.dense import Options
from unified.data.commands import shards
from unified.data.shards.verify import verify

SIDE = 24
IMAGES = 4


class Sources(Door):
    """One source of each of seven kinds; what is packed of a damaged one verifies."""

    name = "sources"
    inputs = 1000

    def prepare(self, whole: Path) -> None:
        for kind, make in KINDS.items():
            make(whole / kind)
            build(whole / kind, kind, whole.parent / f"{kind}.out", skip_bad=False)

    def damage(self, copy: Path, draw: random.Random) -> str:
        self.kind = draw.choice(list(KINDS))
        known = files(copy / self.kind)
        path = draw.choice([p for p in known if p.suffix not in (".png", ".jpg")] or known)
        if draw.random() < 0.25:
            path = draw.choice(known)
        how = {".json": damage_json, ".yaml": damage_yaml}.get(path.suffix, damage_bytes)
        return f"{self.kind}: {path.name}: {how(path, draw)}"

    def enter(self, copy: Path, draw: random.Random) -> bool:
        build(copy / self.kind, self.kind, copy / "out", skip_bad=draw.random() < 0.5)
        return verify(copy / "out").problems == []


def build(source: Path, kind: str, out: Path, *, skip_bad: bool) -> None:
    classes = "background,lesion" if kind == "masks" else None
    columns = "image=path,caption=txt" if kind == "table" else None
    source = next(source.glob("*.csv")) if kind == "table" else source
    options = Options(skip_bad=skip_bad, classes=classes, columns=columns)
    shards.build(str(source), out, kind=kind, options=options)


def picture(number: int) -> bytes:
    buffer = BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder: Path, contents: dict[str, str | bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def images(folder: str = "") -> dict[str, str | bytes]:
    return {f"{folder}{number}.png": picture(number) for number in range(IMAGES)}


def coco(folder: Path) -> None:
    listed = [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in range(IMAGES)]
    objects = [
        {
            "id": n,
            "image_id": n,
            "category_id": 1,
            "bbox": [2, 3, 8, 9],
            "segmentation": [[2, 3, 10, 3, 10, 12, 2, 12]],
            "iscrowd": 0,
            "area": 72,
        }
        for n in range(IMAGES)
    ]
    document = {"images": listed, "annotations": objects, "categories": [{"id": 1, "name": "dog"}]}
    fill(folder, {**images(), "instances.json": json.dumps(document)})


def voc(folder: Path) -> None:
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
    one = f"<annotation><filename>%d.png</filename>{size}<object><name>dog</name>{box}</object></annotation>"
    fill(folder, {**images("JPEGImages/"), **{f"Annotations/{n}.xml": one % n for n in range(IMAGES)}})


def yolo(folder: Path) -> None:
    labels: dict[str, str | bytes] = {
        f"labels/{n}.txt": "0 0.5 0.5 0.25 0.25\n1 0.3 0.3 0.1 0.2\n" for n in range(IMAGES)
    }
    fill(folder, {**images("images/"), **labels, "data.yaml": yaml.safe_dump({"names": ["dog", "cat"]})})


def masks(folder: Path) -> None:
    buffer = BytesIO()
    Image.fromarray(np.eye(SIDE, dtype=np.uint8)).save(buffer, "PNG")
    fill(folder, {**images("images/"), **{f"masks/{n}.png": buffer.getvalue() for n in range(IMAGES)}})


def table(folder: Path) -> None:
    rows = "".join(f'{n}.png,"a ""red"" square, number {n}",{n}\n' for n in range(IMAGES))
    fill(folder, {**images(), "t.csv": "image,caption,n\n" + rows})


def keypoints(folder: Path) -> None:
    rows = "".join(f"{n}.png,1.5,2,1,3,4\n" for n in range(IMAGES))
    fill(folder, {**images(), "joints.csv": "image,nose_x,nose_y,nose_v,tail_x,tail_y\n" + rows})


def pairs(folder: Path) -> None:
    fill(folder, {**images(), **{f"{n}.txt": f"a square number {n}" for n in range(IMAGES)}})


KINDS: dict[str, Callable[[Path], None]] = {
    "coco": coco,
    "voc": voc,
    "yolo": yolo,
    "masks": masks,
    "table": table,
    "keypoints": keypoints,
    "pairs": pairs,
}
