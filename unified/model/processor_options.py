"""The keywords of transformers' processors: which there are, and which this package's processor can follow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers.processing_utils import AudioKwargs, ImagesKwargs, TextKwargs, VideosKwargs

from unified.core.errors import DataError, nearest, quoted
from unified.modalities.image.tokenizer import ImageTokenizer

TEXT, IMAGES = frozenset(TextKwargs.__annotations__), frozenset(ImagesKwargs.__annotations__)
GROUPS = {
    "text_kwargs": TEXT,
    "images_kwargs": IMAGES,
    "videos_kwargs": frozenset(VideosKwargs.__annotations__),
    "audio_kwargs": frozenset(AudioKwargs.__annotations__),
}
COMMON = "common_kwargs"
KNOWN = sorted({"images", "text", *GROUPS, COMMON, *TEXT, *IMAGES})
"""What a call may name; `videos` and `audio` too, as None."""
WITHOUT_EFFECT = frozenset({"default_to_square", "device", "disable_grouping", "image_seq_length", "pad_size"})
"""Keywords of images that have nothing to say here: another keyword or another library would have to ask for them."""


@dataclass
class Options:
    """The keywords of a call, sorted by what they are for."""

    text: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    return_tensors: Any = "pt"


def read_options(given: Mapping[str, Any]) -> Options:
    """Sort the keywords of a call of a processor; nested ones (`text_kwargs={…}`) give way to those of the call.

    Args:
        given: keywords as `ProcessorMixin.__call__` of transformers takes them, beside `images` and `text`.

    Raises:
        TypeError: for a keyword that does not exist.
    """
    flat = {name: value for name, value in given.items() if name not in (*GROUPS, COMMON)}
    common = dict(given.get(COMMON) or {})
    for name in (*flat, *common):
        _check(name, KNOWN, "processor")
    found = Options()
    for group, known in GROUPS.items():
        nested = given.get(group) or {}
        for name in nested:
            _check(name, sorted(known), f"processor: {group}")
        chosen = {
            **{n: v for n, v in common.items() if n in known},
            **nested,
            **{n: flat[n] for n in flat if n in known},
        }
        tensors = chosen.pop("return_tensors", "pt")
        if group == "text_kwargs":
            found.text, found.return_tensors = chosen, tensors
        elif group == "images_kwargs":
            found.images = chosen
    return found


def _check(name: str, known: list[str], where: str) -> None:
    if name not in known:
        raise TypeError(f"{where}: keyword {quoted(name)} does not exist{nearest(name, known)}")


def image_size(tokenizer: ImageTokenizer, options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the height and width that keywords of images ask for, None: those of the spec.

    Args:
        tokenizer: what the model was trained with.
        options: keywords of `ImagesKwargs`; None stands for what is done anyway.

    Raises:
        TypeError: for a keyword that does not exist.
        DataError: for one that asks for other pixels than the model was trained with.
    """
    spec = tokenizer.spec
    crop = spec.mode == "crop"
    own = {
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_pad": False,
        "do_center_crop": crop,
        "rescale_factor": 1 / 255,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "resample": spec.resample,
        "crop_size": [spec.height, spec.width],
        "data_format": "channels_first",
        "input_data_format": None,
    }
    for name, value in options.items():
        _check(name, sorted(IMAGES), "image processor")
        if name == "size" or name in WITHOUT_EFFECT or value is None:
            continue
        plain = list(_sides(value, name)) if name == "crop_size" else getattr(value, "value", value)
        plain = list(plain) if isinstance(plain, tuple) else plain
        if plain != own[name]:
            raise DataError(
                f"image processor: {name}: expected {quoted(own[name])}, as this model was trained, "
                f"got {quoted(value)}. Hint: leave it out; the model scales and normalises uint8 pixels, on its device"
            )
    size = options.get("size")
    return None if size is None else _sides(size, "size")


def _sides(size: Any, name: str) -> tuple[int, int]:
    """Height and width of one of the forms that transformers has for them."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return int(size["height"]), int(size["width"])
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    raise DataError(
        f'image processor: {name}: expected {{"height": …, "width": …}} or (height, width), got {quoted(size)}'
    )
