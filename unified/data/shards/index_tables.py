"""Whether an index can be that of its tar: its tables, looked at whole before any of them is used, and some members."""

import numpy as np
from numpy.typing import NDArray


def tables_problem(
    bounds: NDArray[np.uint64],
    members: NDArray[np.uint64],
    keys: bytes | memoryview,
    columns: int,
    tar_bytes: int,
) -> str | None:
    """Return what is wrong with tables, in words, or None.

    Args:
        bounds: (samples + 1, 2) first byte of each key and first member.
        members: (members, 3) column, offset in the tar, size.
        keys: The keys, one after the other.
        columns: The number of columns.
        tar_bytes: The size of the tar.
    """
    starts = bounds[:, 0]
    ends = (len(keys), len(members))
    if bounds[0].any() or tuple(bounds[-1].tolist()) != ends or (bounds[1:] < bounds[:-1]).any():
        return "its samples do not follow one another"
    if len(members) and int(members[:, 0].max()) >= columns:
        return "a member is of no column"
    if (members[:, 1] > tar_bytes).any() or (members[:, 2] > tar_bytes - members[:, 1]).any():
        return "a member lies outside the tar"
    try:
        str(keys, "utf-8")
    except UnicodeDecodeError:
        return "its keys are not UTF-8"
    inner = np.frombuffer(keys, np.uint8)[starts[:-1][starts[:-1] < len(keys)].astype(np.int64)]
    return "a key begins within a letter" if (inner & 0xC0 == 0x80).any() else None


def is_header(block: bytes, name: str, size: int) -> bool:
    """Whether a block of a tar can be the header of a member.

    Args:
        block: The 512 bytes before its content.
        name: Its name, with the column in lower case. Long ones are cut in this block, and others than ASCII replaced.
        size: Its bytes; of 8 GiB and more they are told elsewhere.
    """
    found = b"/".join(part for part in (block[345:500].split(b"\0")[0], block[:100].split(b"\0")[0]) if part)
    digits = block[124:136].strip(b" \0")
    if digits.isdigit() and size < 8**11 and int(digits, 8) not in (size, 0):
        return False
    wanted = name.encode().lower()
    long = not wanted.isascii() or len(wanted) >= 100
    return long or found.lower().removeprefix(b"./") in (wanted, wanted.removeprefix(b"./"))
