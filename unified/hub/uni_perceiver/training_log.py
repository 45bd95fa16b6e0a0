"""What the converter remembers beside a model, so that the way back gives the same file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unified.core.errors import UserError
from unified.core.version import __version__
from unified.hub.uni_perceiver.names import Shape
from unified.modalities.base import FORMAT, read_json

LOG, SIDECAR = "official.json", "official.safetensors"
PREFIX = (
    "[SPE] at the head of a sequence is the norm of its word vector, without position and type "
    "(OLD_CHECKPONT: True of the published code, as all published files need it)"
)


@dataclass(frozen=True)
class Log:
    """Where a converted model comes from and what is not part of it."""

    source: str
    layout: str
    shape: Shape
    heads: int
    heads_from: str
    position_scale: float
    position_distance: float
    folded_type_embedding: bool
    order: list[str] = field(default_factory=list)
    """The names of the file's tensors, in its order, after renaming."""
    types: dict[str, str] = field(default_factory=dict)
    """Types of the tensors that are not float32."""
    kept_aside: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    trained: bool = False
    """Whether the model was trained on since: what is kept aside is that of its start."""

    def write(self, folder: Path) -> None:
        """Write official.json."""
        content = {"format": FORMAT, "converter": f"unified {__version__}", "prefix": PREFIX, **asdict(self)}
        (folder / LOG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_log(folder: Path) -> Log | None:
    """The log of a converted model; None where there is none."""
    file = folder / LOG
    if not file.is_file():
        return None
    content: dict[str, Any] = read_json(file)
    try:
        shape: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content["shape"].items()
        }
        content.setdefault("trained", False)  # logs of earlier versions
        values = {key: content[key] for key in Log.__dataclass_fields__ if key != "shape"}
        return Log(**values, shape=Shape(**shape))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a log of `unified convert`: {error}; convert the checkpoint again") from error
