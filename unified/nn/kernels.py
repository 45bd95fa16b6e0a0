"""Kernels by device, dtype and compute capability: one table, whose first row that fits is taken.

The choice is a pure function of these facts and of sizes that the host knows, never of a batch: processes that share
one must agree. Most rows say what torch's own call runs there; `products`, `loop`, `blocks` and `grouped_mm` are calls
of ours (`scaled_dot_product.py`, `dispatch.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

Capability = tuple[int, int]
"""Compute capability of a CUDA device, (major, minor)."""

ATTENTION, MASKED, CAPTION = "attention", "masked attention", "caption attention"
"""Attention of tokens to each other: without a mask, with one of padding, with the two blocks of a caption."""
CROSS, MASKED_CROSS = "cross-attention", "masked cross-attention"
"""Attention of queries whose keys and values are projected apart from them."""
EXPERTS, OPTIMIZER, LAYER_NORM = "experts", "optimizer", "layer norm"
WITHOUT_MASK, WITH_MASK = (ATTENTION, CROSS), (MASKED, CAPTION, MASKED_CROSS)
OPERATIONS = (ATTENTION, MASKED, CAPTION, CROSS, MASKED_CROSS, EXPERTS, OPTIMIZER, LAYER_NORM)

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
HALF = (torch.float16, torch.bfloat16)
ROW_BYTES = 16
"""`grouped_mm` reads rows through the tensor memory accelerator, which wants them to be multiples of so many bytes."""


@dataclass(frozen=True)
class Kernel:
    """A row of the table: a way to compute operations, and where it is taken."""

    operations: tuple[str, ...]
    name: str
    reference: str  # where the condition comes from: a source of torch, or the command that measures it
    devices: tuple[str, ...] | None = None  # types; None: all
    dtypes: tuple[torch.dtype, ...] = FLOATS
    since: Capability | None = None  # the oldest compute capability that has it
    until: Capability | None = None  # the first newer one that has it no more
    keys: int | None = None  # that a query may see at most
    amx: bool = False  # only on CPUs that multiply bf16 in tiles
    whole_rows: bool = False  # only for rows of multiples of `ROW_BYTES`

    def is_for(self, operation: str, device: str, dtype: torch.dtype) -> bool:
        """Return whether it computes this, whatever the machine's age."""
        there = self.devices is None or device in self.devices
        return there and operation in self.operations and dtype in self.dtypes

    def has(self, capability: Capability | None) -> bool:
        """Return whether a device of this compute capability has it; None: of no CUDA device."""
        if self.since is None:
            return True
        return capability is not None and self.since <= capability and (self.until is None or capability < self.until)

    @property
    def needs(self) -> str:
        """The compute capabilities that have it, in words."""
        since = f"{self.since[0]}.{self.since[1]}" if self.since else "any"
        return f"{since} or newer" if self.until is None else f"{since} to below {self.until[0]}.{self.until[1]}"


_SDP = "torch 2.13 aten/src/ATen/native/transformers/cuda/sdp_utils.cpp"
_GROUPED = "torch 2.13 aten/src/ATen/native/cuda/GroupedBlas.cpp: elsewhere it copies the offsets to the host"
_ATTENTION = (*WITHOUT_MASK, *WITH_MASK)
_PRODUCTS = (ATTENTION, MASKED, CAPTION, CROSS)

TABLE = (
    # Products keep one number for each query, key and head: at 256 keys, as many bytes a token as the rest of a layer.
    Kernel(_PRODUCTS, "products", "python -m benchmarks attention", ("cpu",), (torch.float32,), keys=128),
    Kernel(_PRODUCTS, "products", "python -m benchmarks attention", ("cpu",), (torch.bfloat16,), keys=256, amx=True),
    Kernel(_ATTENTION, "fused", "torch 2.13 aten/src/ATen/native/transformers/sdp_utils_cpp.cpp", ("cpu",)),
    Kernel(_ATTENTION, "cudnn", f"{_SDP}: check_prefer_cudnn_attention", ("cuda",), HALF, since=(9, 0), until=(11, 0)),
    Kernel(WITHOUT_MASK, "flash", f"{_SDP}: check_flash_attention_hardware_support", ("cuda",), HALF, since=(8, 0)),
    Kernel(
        _ATTENTION,
        "efficient",
        f"{_SDP}: check_mem_efficient_hardware_support",
        ("cuda",),
        (torch.bfloat16,),
        since=(8, 0),
    ),
    Kernel(
        _ATTENTION,
        "efficient",
        f"{_SDP}: check_mem_efficient_hardware_support",
        ("cuda",),
        (torch.float16, torch.float32),
        since=(5, 0),
    ),
    Kernel(_ATTENTION, "math", f"{_SDP}: use_math", ("cuda",)),
    Kernel(_ATTENTION, "torch's choice", "torch.nn.functional.scaled_dot_product_attention"),
    # A grouped product is a loop on a CPU as well, and rows of one expert that stay in the cache save more.
    Kernel((EXPERTS,), "loop", "python -m benchmarks experts", ("cpu",)),
    Kernel(
        (EXPERTS,), "grouped_mm", _GROUPED, ("cuda",), (torch.bfloat16,), since=(9, 0), until=(11, 0), whole_rows=True
    ),
    # Shapes without values stand for the newest device.
    Kernel((EXPERTS,), "grouped_mm", "torch/_meta_registrations.py", ("meta",), (torch.bfloat16,), whole_rows=True),
    Kernel((EXPERTS,), "blocks", "unified/nn/blocks.py: no device is asked for sizes"),
    Kernel(
        (OPTIMIZER,),
        "fused AdamW",
        "torch/utils/_foreach_utils.py: _get_fused_kernels_supported_devices",
        ("cpu", "cuda", "hip", "mps", "xpu", "hpu", "mtia", "meta"),
    ),
    Kernel((OPTIMIZER,), "foreach AdamW", "torch/optim/adam.py: _multi_tensor_adam"),
    # Autocast computes it in fp32 (torch/docs/source/amp.md); torch has one kernel a device.
    Kernel((LAYER_NORM,), "native", "torch.nn.functional.layer_norm"),
)
"""For each operation, from the fastest way to the one that runs everywhere."""


@dataclass(frozen=True)
class Machine:
    """What the choice looks at of a device."""

    device: str  # its type: cpu, cuda, meta …
    capability: Capability | None = None
    amx: bool = False


@lru_cache(maxsize=4096)
def choose(
    operation: str,
    device: str,
    dtype: torch.dtype,
    *,
    capability: Capability | None = None,
    amx: bool = False,
    keys: int = 0,
    whole_rows: bool = True,
) -> Kernel:
    """Return the first row of the table that fits.

    Args:
        operation: one of `OPERATIONS`.
        device: the type of the device.
        dtype: what is computed in; of the optimizer, what parameters are kept in.
        capability: of a CUDA device.
        amx: whether a CPU multiplies bf16 in tiles.
        keys: how many each query of an attention sees.
        whole_rows: whether all rows of a product are multiples of `ROW_BYTES`.
    """
    for row in TABLE:
        fits = row.is_for(operation, device, dtype) and row.has(capability) and (amx or not row.amx)
        if fits and (row.keys is None or keys <= row.keys) and (whole_rows or not row.whole_rows):
            return row
    raise ValueError(f"kernels: expected an operation of {', '.join(OPERATIONS)} in floats, got {operation!r}, {dtype}")


@lru_cache(maxsize=64)
def machine(device: torch.device) -> Machine:
    """Return what a device can do. AMD's devices, which torch calls CUDA as well, have no compute capability."""
    if device.type == "cuda" and torch.version.hip is None:
        return Machine("cuda", torch.cuda.get_device_capability(device))
    if device.type == "cpu":
        return Machine("cpu", amx=bool(torch.cpu.get_capabilities().get("amx_bf16", False)))
    return Machine("hip" if device.type == "cuda" else device.type)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # compilers need not look into the cache
def chosen(
    operation: str, device: torch.device, dtype: torch.dtype, *, keys: int = 0, whole_rows: bool = True
) -> Kernel:
    """Return what `choose` gives for a device that is here."""
    own = machine(device)
    return choose(
        operation, own.device, dtype, capability=own.capability, amx=own.amx, keys=keys, whole_rows=whole_rows
    )


def has_whole_rows(dtype: torch.dtype, *sizes: int) -> bool:
    """Return whether rows of so many numbers are multiples of `ROW_BYTES`."""
    return all(size * dtype.itemsize % ROW_BYTES == 0 for size in sizes)


def describe(own: Machine, dtype: torch.dtype, *, experts: bool, whole_rows: bool = True) -> str:
    """Return a line for people: the ways that a run takes, and those that its device is too old or too new for.

    Args:
        own: the device.
        dtype: what products are computed in; the optimizer and layer norms are in fp32.
        experts: whether tokens are sent to experts.
        whole_rows: as in `choose`.
    """
    taken: dict[str, list[str]] = {}
    missed: dict[str, str] = {}
    for operation in OPERATIONS if experts else [name for name in OPERATIONS if name != EXPERTS]:
        exact = torch.float32 if operation in (OPTIMIZER, LAYER_NORM) else dtype
        ways, lacking = _ways(operation, own, exact, whole_rows)
        taken.setdefault(ways, []).append(operation)
        missed |= lacking
    kind = own.device if own.capability is None else f"{own.device} {own.capability[0]}.{own.capability[1]}"
    ways = "; ".join(f"{', '.join(operations)}: {way}" for way, operations in taken.items())
    not_had = "".join(f"; not {name}, which needs compute capability {needs}" for name, needs in missed.items())
    return f"kernels on {kind} in {str(dtype).removeprefix('torch.')}: {ways}{not_had}"


def _ways(operation: str, own: Machine, dtype: torch.dtype, whole_rows: bool) -> tuple[str, dict[str, str]]:
    """The ways by length, and what the compute capability lacks of what comes before them."""
    ways, lacking = [], {}
    for row in _rows(operation, own, dtype, whole_rows):
        if not row.has(own.capability):
            lacking[row.name] = row.needs
            continue
        ways.append(row.name if row.keys is None else f"{row.name} up to {row.keys} keys")
        if row.keys is None:
            break
    return ", then ".join(ways), lacking


def _rows(operation: str, own: Machine, dtype: torch.dtype, whole_rows: bool) -> Iterator[Kernel]:
    for row in TABLE:
        if row.is_for(operation, own.device, dtype) and (own.amx or not row.amx) and (whole_rows or not row.whole_rows):
            yield row
