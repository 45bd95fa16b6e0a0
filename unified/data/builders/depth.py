"""Shards from colour pictures, 16-bit depth PNGs and intrinsics, with surface normals derived from the latter two."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

from unified.core.errors import DataError
from unified.core.log import logger
from unified.core.text_files import decode_text, shown_text
from unified.data.builders.annotations import check_size, png, read_map, read_picture
from unified.data.builders.dense import Found, Options
from unified.data.builders.pairing import Pair, Places, Words, by_place, pair_places, place, stem
from unified.data.builders.sources import Files, Item, Problems

DEPTH_UNIT = 0.001  # metres a step where nothing else is said: millimetres
SATURATED = 65535  # what cameras write beyond their range; stored as no reading
REACH = 4  # pixels on either side over which normals are taken: sensors are too coarse from pixel to pixel
JUMP = 0.05  # share of its depth by which a neighbour may differ and still be on the same surface
DEPTH, COLOUR = ".depth", ".color"
DEPTH_FOLDERS = frozenset(("depth", "depths"))
COLOUR_FOLDERS = frozenset(("images", "image", "rgb", "color", "colour"))
WORDS = Words("depth", "missing depth", "depth without image")


def find_depth(files: Files, problems: Problems, options: Options) -> Found:
    """Pairs x.color.jpg and x.depth.png, or rgb/x.jpg and depth/x.png in any folder, and one *intrinsics*.txt for all.

    Depth and colour have one size. Normals are left out where there are no intrinsics.
    """
    depths, colours = _places(files)
    pairs = pair_places(colours, depths, problems, WORDS)
    unit = DEPTH_UNIT if options.depth_unit is None else options.depth_unit
    if not 0 < unit < np.inf:
        raise DataError(f"--depth-unit: expected metres a step, above 0, found {unit}")
    camera = _intrinsics(files)
    items = [_item(files, pair, unit, camera) for pair in pairs]
    facts: dict[str, Any] = {"depth_unit": unit}
    return Found(items, facts | ({"normals": {"reach": REACH, "jump": JUMP}} if camera else {}))


def _places(files: Files) -> tuple[Places, Places]:
    """Depth and colour pictures by what their paths share; others are neither."""
    kinds = {name: _kind(name) for name in files.images()}
    other = [name for name, kind in kinds.items() if kind is None]
    if other:
        logger.warning("%s: %d images are neither depth nor colour: %s", files.source, len(other), shown_text(other[0]))
    depths, colours = ([name for name, kind in kinds.items() if kind == wanted] for wanted in (DEPTH, COLOUR))
    return by_place(depths, _shared), by_place(colours, _shared)


def _kind(name: str) -> str | None:
    """Whether a picture is of depth or of colours: by the end of its name, or by a folder."""
    folders = {folder.casefold() for folder in name.split("/")[:-1]}
    if stem(name).endswith(DEPTH) or stem(name).endswith(COLOUR):
        return DEPTH if stem(name).endswith(DEPTH) else COLOUR
    return DEPTH if folders & DEPTH_FOLDERS else COLOUR if folders & COLOUR_FOLDERS else None


def _shared(name: str) -> str:
    return place(name, DEPTH_FOLDERS | COLOUR_FOLDERS).removesuffix(DEPTH).removesuffix(COLOUR)


def _intrinsics(files: Files) -> list[float] | None:
    """[fx, fy, cx, cy] from a 3×3 matrix or from these four numbers; None where there is no such file."""
    names = [name for name in files.names if "intrinsics" in stem(name).lower() and name.lower().endswith(".txt")]
    if not names:
        return None
    if len(names) > 1:
        raise DataError(f"{files.source}: expected one file of intrinsics, found {', '.join(names)}")
    try:
        numbers = [float(word) for word in decode_text(files.read(names[0]), names[0]).replace(",", " ").split()]
    except ValueError as error:
        raise DataError(f"{files.source}: {names[0]}: {error}") from error
    found = [numbers[0], numbers[4], numbers[2], numbers[5]] if len(numbers) == 9 else numbers
    if len(found) != 4 or not np.isfinite(found).all() or min(found[:2]) <= 0:
        raise DataError(f"{files.source}: {names[0]}: expected a 3×3 matrix, or fx fy cx cy, found {numbers}")
    return found


def _item(files: Files, pair: Pair, unit: float, camera: list[float] | None) -> Item:
    depth = pair.annotation

    def load() -> dict[str, Any]:
        picture = read_picture(files, pair.image)
        data = files.read(depth)
        stored = read_map(data, depth, "depth", bits=(16,))
        check_size(depth, "depth", stored.shape, picture)
        if (stored == SATURATED).any():
            stored = np.where(stored == SATURATED, 0, stored).astype(np.uint16)
            data = png(stored)
        sample = picture.columns(depth_unit=unit, **({"intrinsics": camera} if camera else {}))
        sample["depth.png"] = data
        if camera:
            normals, valid = normals_of_depth(stored * unit, camera)
            sample["normals.png"] = png(encode_normals(normals, valid))
        return sample

    return Item(pair.key, pair.image, load)


def normals_of_depth(
    depth: Float[NDArray[Any], "h w"], camera: list[float], reach: int = REACH, jump: float = JUMP
) -> tuple[Float[NDArray[Any], "h w 3"], Bool[NDArray[Any], "h w"]]:
    """Unit normals towards the camera, in its axes (x right, y down, z away), and where there is one.

    They are the cross product of central differences, over `reach` pixels to each side, of the points in space. There
    is none where one of the five depths is missing (0), or where a neighbour's differs from the middle one by more than
    `jump` of it. `camera` is fx, fy, cx, cy in pixels.
    """
    height, width = depth.shape
    normals, valid = np.zeros((height, width, 3)), np.zeros((height, width), dtype=bool)
    if min(height, width) <= 2 * reach:
        return normals, valid
    fx, fy, cx, cy = camera
    rays = np.ones((height, width, 3))
    rays[..., 0] = (np.arange(width)[None, :] + 0.5 - cx) / fx
    rays[..., 1] = (np.arange(height)[:, None] + 0.5 - cy) / fy
    points = rays * depth[..., None]
    inner, before, after = slice(reach, -reach), slice(None, -2 * reach), slice(2 * reach, None)
    across = points[inner, after] - points[inner, before]
    down = points[after, inner] - points[before, inner]
    normal = np.cross(down, across)
    length = np.linalg.norm(normal, axis=-1)
    middle = depth[inner, inner]
    good = (middle > 0) & (length > 0)
    for neighbour in (depth[inner, before], depth[inner, after], depth[before, inner], depth[after, inner]):
        good &= (neighbour > 0) & (np.abs(neighbour - middle) <= jump * middle)
    unit = normal / np.maximum(length, np.finfo(float).tiny)[..., None]
    away = (unit * points[inner, inner]).sum(-1) > 0
    normals[inner, inner] = np.where(good[..., None], np.where(away[..., None], -unit, unit), 0)
    valid[inner, inner] = good
    return normals, valid


def encode_normals(
    normals: Float[NDArray[Any], "h w 3"], valid: Bool[NDArray[Any], "h w"]
) -> UInt8[NDArray[Any], "h w 3"]:
    """Normals as colours: n = value / 127.5 − 1; black where there is none."""
    return (np.rint((normals + 1) * 127.5) * valid[..., None]).astype(np.uint8)
