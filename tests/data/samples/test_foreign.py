"""Columns of shards that others made."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import webdataset
from webdataset.autodecode import decoders

from unified.core.errors import DataError
from unified.data.samples.decode import decode_column
from unified.data.samples.foreign import PICKLED
from unified.data.shards.shards import Shards

VALUES: dict[str, Any] = {
    "txt": "größe\n",
    "text": "a text",
    "transcript": "what was said",
    "cls": 7,
    "cls2": -1,
    "index": 12,
    "inx": 3,
    "id": 2**40,
    "json": {"a": [1, None]},
    "jsn": [1.5, "x"],
    "mp": {"a": [1, 2.5, b"bytes", None]},
    "msg": [True, "größe"],
    "npy": np.arange(6, dtype=np.float16).reshape(2, 3),
}
UNREAD = {"npz", "cbor", "ten", "tb"}


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def column(name: str, data: bytes) -> Any:
    return decode_column({"__key__": "7", "__shard__": "a.tar", name: data}, name)


def test_what_webdataset_writes_is_read_as_webdataset_reads_it(tmp_path: Path) -> None:
    assert set(VALUES) == set(decoders) - set(PICKLED) - UNREAD
    path = tmp_path / "a.tar"
    encoded = {
        name: value if name not in ("id", "jsn") else json.dumps(value).encode() for name, value in VALUES.items()
    }
    with webdataset.TarWriter(str(path)) as writer:
        writer.write({"__key__": "0", **encoded})
    raw = Shards.open(path)[0]
    for name, value in VALUES.items():
        found = decode_column(raw, name)
        np.testing.assert_equal(found, decoders[name](raw[name]))
        np.testing.assert_equal(found, value)


def test_msgpack_has_its_full_name_too() -> None:
    assert column("words.msgpack", msgpack.packb(["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize("name", PICKLED)
def test_pickles_are_never_read(name: str, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "run",))

    with pytest.raises(DataError, match=f"a.tar: 7: column '{name}': expected plain data, got a pickle"):
        column(name, pickle.dumps(Harm()))
    with pytest.raises(DataError, match="one of Python objects"):
        column("npy", npy(np.array([Harm()], dtype=object)))
    assert not (tmp_path / "run").exists()


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("npy", b""),
        ("npy", b"\x93NUMPY"),
        ("npy", npy(np.zeros(50))[:-1]),
        ("npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }") + b"\0" * 80),
        ("npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }") + b"\0" * 80),
        ("npy", header("{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000,), }")),
        ("npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (2,")),
        ("npy", header("(" * 5000)),
        ("npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", b"\x09\x00") + b"\0" * 8),
        ("npy", b"PK\x03\x04" + b"\0" * 60),
        ("mp", b""),
        ("mp", b"\x93\x01"),
        ("mp", b"\x01\x02"),
        ("mp", b"\xa1\xff"),
        ("mp", b"\xdd\xff\xff\xff\xff"),
        ("mp", b"\xc1"),
        ("msgpack", b"\x91" * 100_000),
        ("msgpack", (b"\xdd" + (10**6).to_bytes(4, "big")) * 511 + bytes(10**6)),
        ("id", b"seven"),
        ("jsn", b"{"),
        ("transcript", b"\xff\xfe"),
    ],
)
def test_damaged_columns_are_told_in_one_line(name: str, data: bytes) -> None:
    with pytest.raises(DataError, match=f"a.tar: 7: column '{name}': ") as error:
        column(name, data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "header", ["{'descr': [('a', '<f8')] * 9, 'shape': ()}", "(" * 90, "9" * 90, "{}", "x", "", "[1]"]
)
def test_headers_of_arrays_that_are_none_are_told_without_pythons_own_words(header: str) -> None:
    padded = header.encode().ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + bytes(8)
    with pytest.raises(DataError, match=r"column 'npy': expected the header of an array, got one that cannot be read$"):
        column("npy", data)
