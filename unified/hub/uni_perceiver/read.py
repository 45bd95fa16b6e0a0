"""Official checkpoints from disk: without running code from them, and complete or not at all."""

import pickle
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from unified.core.errors import UserError
from unified.core.file_kinds import START, ZIP, file_kind
from unified.hub.uni_perceiver import names
from unified.hub.uni_perceiver.names import ALIAS, LAYERS, NORM, Shape
from unified.hub.uni_perceiver.rename import fold_type, is_old, rename

KINDS = (torch.float32, torch.float16, torch.bfloat16)
PROMPT = "deep_prompt_embedding"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of an official file under the names of the published code, checked."""

    tensors: dict[str, Tensor]
    shape: Shape
    layout: Literal["current", "deepspeed"]
    folded: bool
    """Whether the image's type embedding was added to the bias of its projection."""
    dropped: list[str]
    """Tensors that the published code does not know."""
    ignored: list[str]
    """What the file holds beside the tensors."""


def read(file: Path, *, fold: bool | None = None) -> Checkpoint:
    """The checkpoint in a file; `fold` None does what the authors' tool did for such a file."""
    tensors, ignored = _load(file)
    layout: Literal["current", "deepspeed"] = "current"
    dropped: list[str] = []
    if is_old(tensors):
        layout, renamed = "deepspeed", rename(tensors)
        tensors, dropped = renamed.tensors, renamed.dropped
        fold = (not renamed.has_experts) if fold is None else fold
    shape = infer(tensors)
    check(file, tensors, shape)
    if fold:
        fold_type(tensors)
    return Checkpoint(tensors, shape, layout, bool(fold), dropped, ignored)


def _load(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a file, and the names of what lies beside it."""
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "no such file"
        raise UserError(f"{file}: {what}; give the .pth of a Uni-Perceiver checkpoint")
    with file.open("rb") as stream:
        kind = file_kind(stream.read(START))
    if kind is not None and kind is not ZIP:  # in which torch packs tensors
        raise UserError(f"{file}: expected a checkpoint of torch, got {kind.name}. Hint: {kind.hint}")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file}: not a file of plain tensors: {_reason(error)}. It would run code of whoever made it, so it is "
            "not read. Where you trust its maker, load it on a machine of its own and save "
            '{"model": {name: tensor, …}} alone with torch.save'
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).split(". ")[0] or type(error).__name__
        raise UserError(f"{file}: not a checkpoint that torch can read, or a damaged one: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__}; expected a mapping of names to tensors")
    wrapper = next((key for key in ("model", "module") if isinstance(content.get(key), dict)), None)
    state: Mapping[Any, Any] = content if wrapper is None else content[wrapper]
    ignored = [] if wrapper is None else [str(key) for key in content if key != wrapper]
    wrong = [f"{key} ({_kind(value)})" for key, value in state.items() if not _fits(key, value)]
    if wrong or not state:
        found = ", ".join(wrong) or "nothing"
        raise UserError(
            f"{file}: expected names with tensors of float32, float16 or bfloat16, found {found}; the tensors stand "
            'under "model" (published files) or "module" (older ones), or alone'
        )
    return dict(state), ignored


def _fits(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor) and value.dtype in KINDS and value.layout == torch.strided


def _reason(error: Exception) -> str:
    """The words of torch's message that say what was found."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"it holds {found.group(1)}" if found else str(error).splitlines()[0]


def _kind(value: object) -> str:
    return f"tensor of {str(value.dtype).removeprefix('torch.')}" if isinstance(value, Tensor) else type(value).__name__


def infer(tensors: Mapping[str, Tensor]) -> Shape:
    """The shape of the model that the tensors come closest to; what they lack has the values of the base model."""
    layers = {int(found.group(1)) for name in tensors if (found := re.match(rf"{LAYERS}\.(\d+)\.", name))}
    width = _width(tensors)
    word = _size(tensors, f"{names.TEXT}.embeddings.weight", (49411, width))
    plain = next((layer for layer in sorted(layers) if f"{LAYERS}.{layer}.linear1.weight" in tensors), 0)
    hidden = _size(tensors, f"{LAYERS}.{plain}.linear1.weight", (0, 0))[0]
    experts = _experts(tensors)
    first = next((f"{LAYERS}.{layer}.linear1" for layer in experts["expert_layers"]), "")
    hidden = hidden or _size(tensors, f"{first}.experts.deepspeed_experts.0.weight", (4 * width, 0))[0]
    own = any("self_attn.qkv_proj." in name for name in tensors)
    return Shape(
        width=width,
        depth=max(layers, default=11) + 1,
        hidden=hidden,
        patch=_size(tensors, f"{names.IMAGE}.embeddings.weight", (0, 0, 0, 16))[-1],
        vocabulary=word[0],
        positions=_size(tensors, f"{names.TEXT}.embeddings_pos.position_embeddings.weight", (512, 0))[0],
        types=_size(tensors, f"{names.TEXT}.embeddings_token_type.weight", (2, 0))[0],
        frames=_size(tensors, f"{names.IMAGE}.embeddings_st_pos.temporal_pos_embed.weight", (8, 0))[0],
        places=_size(tensors, names.SPATIAL, (196, 0))[0],
        attention="qkv_proj" if own else "in_proj",
        **experts,
        **_prompts(tensors),
    )


def _width(tensors: Mapping[str, Tensor]) -> int:
    """The width that most norms have, so that one tensor of a wrong shape does not put all others in the wrong."""
    norms = Counter(len(tensor) for name, tensor in tensors.items() if "norm" in name and tensor.dim() == 1)
    return norms.most_common(1)[0][0] if norms else 768


def _experts(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    modules = {linear: names.module(0, linear).split(".", 3)[-1] for linear in names.LINEARS}
    found = [re.fullmatch(rf"{LAYERS}\.(\d+)\.(.+)\.experts\.deepspeed_experts\.(\d+)\..+", name) for name in tensors]
    matches = [match for match in found if match]
    if not matches:
        return {"experts": 0, "expert_layers": (), "linears": ()}
    gates = [name for name in tensors if name.endswith(".gate.tag_transform.0.weight")]
    return {
        "experts": max(int(match.group(3)) for match in matches) + 1,
        "expert_layers": tuple(sorted({int(match.group(1)) for match in matches})),
        "linears": tuple(
            linear for linear, inside in modules.items() if any(match.group(2) == inside for match in matches)
        ),
        "bits": _size(tensors, gates[0], (0, 8))[-1] if gates else 8,
    }


def _prompts(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    deep = [name for name in tensors if f".{PROMPT}.embedding." in name]
    return {
        "prompts": _size(tensors, deep[0], (0,))[0] if deep else 0,
        "candidate_prompts": any(f".{PROMPT}.target_embedding." in name for name in tensors),
        "token_bias": "s_token_bias" in tensors,
        "classes": _size(tensors, "fc_prompt.weight", (0,))[0] if "fc_prompt.weight" in tensors else None,
    }


def _size(tensors: Mapping[str, Tensor], name: str, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a tensor; what it would be in the base model where it is missing or of another rank."""
    found = tuple(tensors[name].shape) if name in tensors else otherwise
    return found if len(found) >= len(otherwise) else otherwise


def check(file: Path, tensors: Mapping[str, Tensor], shape: Shape) -> None:
    """Refuse tensors that are not finite, or not exactly those of the shape; the norm's second name may be left out."""
    if not any(name.startswith((names.TEXT, names.IMAGE, names.HEAD, LAYERS)) for name in tensors):
        some = ", ".join(list(tensors)[:5])
        raise UserError(f"{file}: none of the tensors is one of Uni-Perceiver; it holds {some} …")
    expected = names.official_shapes(shape)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    alias = {f"{ALIAS}.weight", f"{ALIAS}.bias"}
    optional = alias if not alias & found.keys() else set()
    missing = [name for name in expected if name not in found and name not in optional]
    extra = [name for name in found if name not in expected]
    wrong = [
        f"{name} {found[name]}, expected {size}" for name, size in expected.items() if found.get(name, size) != size
    ]
    infinite = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    kinds = {"missing": missing, "unknown": extra, "of another shape": wrong, "not finite": infinite}
    problems = ["\n    ".join([f"  {kind} ({len(words)}):", *words]) for kind, words in kinds.items() if words]
    problems += _two_norms(tensors)
    if problems:
        raise UserError(
            f"{file}: the tensors are not those of a Uni-Perceiver of {shape.depth} layers and width {shape.width}; "
            "nothing was written:\n" + "\n".join(problems)
        )


def _two_norms(tensors: Mapping[str, Tensor]) -> list[str]:
    """The embeddings share one norm, which a file holds under two names."""
    return [
        f"  {ALIAS}.{part} differs from {NORM}.{part}: they are two names of one tensor, so one of them is wrong"
        for part in ("weight", "bias")
        if f"{ALIAS}.{part}" in tensors
        and f"{NORM}.{part}" in tensors
        and not torch.equal(tensors[f"{ALIAS}.{part}"], tensors[f"{NORM}.{part}"])
    ]
