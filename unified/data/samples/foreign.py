"""Columns of shards that others made, decoded as webdataset decodes them: arrays, MessagePack; never pickles."""

import io
from typing import Any

import numpy as np
from msgpack import UnpackException

PICKLED = ("pkl", "pickle", "pyd", "pth", "pt")
"""Endings of columns that run code when they are read."""
_LONGEST_HEADER = 10_000  # bytes; numpy's own limit


def decode_array(data: bytes) -> np.ndarray:
    """Return the array in the bytes of a `.npy`; its size is compared with them before any memory is taken.

    Raises:
        ValueError: It is damaged, cut off, or an array of Python objects, which would be pickles.
    """
    from webdataset.autodecode import npy_loads  # not above: takes a while, and few data sets have such columns

    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream, _LONGEST_HEADER)
    except Exception as error:  # of Python's parser, which reads the header, and of numpy
        raise ValueError("expected the header of an array, got one that cannot be read") from error
    if dtype.hasobject:
        raise ValueError("expected an array of numbers, got one of Python objects. Hint: store it as numbers or json")
    count = 1
    for side in shape:
        count *= side
    expected, found = count * dtype.itemsize, len(data) - stream.tell()
    if min(shape, default=0) < 0 or found < expected or (not dtype.itemsize and count):
        raise ValueError(f"expected {expected:,} bytes for an array of shape {shape}, got {found:,}")
    return np.asarray(npy_loads(data))


def decode_msgpack(data: bytes) -> Any:
    """Return the value of a MessagePack document.

    Raises:
        ValueError: It is damaged, cut off, or nested too deeply.
    """
    from webdataset.autodecode import msgpack_loads

    try:
        return msgpack_loads(data)
    except UnpackException as error:
        raise ValueError(f"expected MessagePack, got damaged data ({error or type(error).__name__})") from error
