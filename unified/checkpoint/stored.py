"""Tensors in safetensors files, each read where it is asked for: from disks and from object stores alike.

`safetensors.safe_open` maps whole files of a disk into memory; here no more is held than a tensor (and a block of a
store's file), which lets models that are larger than the host's memory be loaded into parts, and be exported.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unified.checkpoint.names import current_name
from unified.checkpoint.place import Place
from unified.core.errors import CheckpointError

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip
_LONGEST_HEADER = 10**8  # of the format


class TensorFile:
    """One safetensors file."""

    def __init__(self, place: Place, name: str) -> None:
        self.place, self.name = place, name
        self._header: dict[str, Any] | None = None
        self._data = 0  # where the tensors begin
        self._block, self._start = bytearray(), 0

    def nbytes(self, tensor: str) -> int:
        """Bytes of a tensor."""
        begin, end = self._entry(tensor)["data_offsets"]
        return int(end - begin)

    def read(self, tensor: str) -> Tensor:
        """A tensor, on the CPU."""
        entry = self._entry(tensor)
        begin, end = (self._data + offset for offset in entry["data_offsets"])
        dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
        if begin == end:
            return torch.empty(shape, dtype=dtype)
        if not self.place.ahead:
            return torch.frombuffer(self._bytes(begin, end), dtype=dtype).reshape(shape)
        if begin < self._start or end > self._start + len(self._block):
            self._block, self._start = self._bytes(begin, max(end, begin + self.place.ahead), least=end - begin), begin
        part = memoryview(self._block)[begin - self._start : end - self._start]
        return torch.frombuffer(part, dtype=dtype).reshape(shape).clone()

    def _bytes(self, begin: int, end: int, least: int | None = None) -> bytearray:
        try:
            data = self.place.read(self.name, begin, end)
        except OSError as error:
            raise CheckpointError(f"{self.place}/{self.name}: cannot be read: {error}") from error
        if len(data) < (end - begin if least is None else least):
            raise CheckpointError(f"{self.place}/{self.name}: ends before byte {end}")
        return data

    def _entry(self, tensor: str) -> Any:
        header = self._header
        if header is None:
            length = int.from_bytes(self._bytes(0, 8), "little")
            if length > _LONGEST_HEADER:
                raise CheckpointError(f"{self.place}/{self.name}: not a safetensors file")
            try:
                header = self._header = dict(json.loads(self._bytes(8, 8 + length)))
            except ValueError as error:
                raise CheckpointError(f"{self.place}/{self.name}: cannot be read: {error}") from error
            self._data = 8 + length
        if tensor not in header:
            raise CheckpointError(f"{self.place}/{self.name}: no tensor {tensor!r}, which the manifest names")
        return header[tensor]


class Lazy(Mapping[str, Tensor]):
    """Tensors by name, each made anew when it is asked for."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Tensor]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Stored(Lazy):
    """The tensors of a group by name, read anew each time."""

    def __init__(self, files: Mapping[str, TensorFile], tied: Mapping[str, str]) -> None:
        """`files`: where each tensor is; `tied`: names that stand for one of these; both may have earlier names."""
        self._held = {current_name(name): name for name in files}
        self.tied = {current_name(name): current_name(first) for name, first in tied.items()}
        super().__init__([*self._held, *self.tied], self._read)
        self._files = files

    def _read(self, name: str) -> Tensor:
        held = self._held[self.tied.get(name, name)]
        return self._files[held].read(held)

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor, which is not read for it."""
        held = self._held[self.tied.get(name, name)]
        return self._files[held].nbytes(held)
