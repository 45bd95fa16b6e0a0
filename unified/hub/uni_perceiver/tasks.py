"""The kinds of token of the published tasks (`moe_embeddings.py` of the published code), as a config.json holds them.

Which attribute bits they have follows from what they are: `unified.model.routing_attributes`.
"""

from dataclasses import asdict
from typing import Any

from unified.modalities.sequence import Attributes

_PICTURE = Attributes("image", given=("image",), family="img_cls")
_VIDEO = Attributes("image", given=("image",), family="video_cls")
_NAME = Attributes("text", "candidate", given=("image",), family="img_cls")
_VIDEO_NAME = Attributes("text", "candidate", given=("image",), family="video_cls")
_HIDDEN = Attributes("text", given=("text",), family="text_mlm")
_BOTH = ("image", "text")

KINDS: dict[str, list[Attributes]] = {
    "image_classification": [_PICTURE, _NAME],
    "video_classification": [_VIDEO, _VIDEO_NAME],
    "masked_language_modelling": [_HIDDEN, Attributes("text", "candidate", given=_BOTH, family="text_mlm")],
    "captioning": [
        Attributes("image", given=_BOTH, family="caption"),
        Attributes("text", causal=True, given=_BOTH, family="caption"),
        Attributes("text", "query", causal=True, given=_BOTH, family="caption"),
        Attributes("text", "candidate", given=_BOTH, family="caption"),
    ],
    "retrieval": [
        Attributes("image", given=("image",), family="retrieve"),
        Attributes("text", "candidate", given=("image",), family="retrieve"),
    ],
    "text_classification": [_HIDDEN, Attributes("text", "candidate", given=("text",), family="text_mlm")],
}
TASKS: dict[str, list[dict[str, Any]]] = {name: [asdict(kind) for kind in kinds] for name, kinds in KINDS.items()}
