"""Formats of images: how files are told to be images, which formats are read, and the columns that hold them.

A file is told by its first bytes. The ending of its name says only that it is meant to be an image: browsers and phones
write JPEGs as `.jfif`, `.heic` or without one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from PIL import features

from unified.core.file_kinds import START, FileKind, file_kind

ENDINGS = {
    "PNG": ("png", "apng"),
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "jif", "jfi", "pjpeg", "pjp", "mpo"),
    "WEBP": ("webp",),
    "BMP": ("bmp", "dib"),
    "GIF": ("gif",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "AVIF": ("avif", "avifs"),
}
"""Endings of the formats that are read, by Pillow's names; the first is the column of files with another ending."""
HAS_AVIF = "avif" in features.modules and bool(features.check("avif"))  # Pillow 11.3 and later, where built with it
FORMATS = tuple(name for name in ENDINGS if name != "AVIF" or HAS_AVIF)
IMAGES = tuple(dict.fromkeys(ending for endings in ENDINGS.values() for ending in endings))
"""Columns that hold images."""
KEPT = frozenset(["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "avif"])
"""Endings that become the column as they are; readers of webdataset's shards know them."""
OTHERS = {
    "HEIC": ("heic", "heif", "hif"),
    "JPEG XL": ("jxl",),
    "JPEG 2000": ("jp2", "j2k", "j2c", "jpf", "jpx", "jpm"),
    "Photoshop": ("psd", "psb"),
    "SVG": ("svg", "svgz"),
    "OpenEXR": ("exr",),
    "Radiance HDR": ("hdr",),
    "DICOM": ("dcm",),
    "Targa": ("tga",),
    "camera raw": (
        *("3fr", "arw", "cr2", "cr3", "dng", "erf", "kdc", "mef", "mos", "mrw", "nef", "nrw", "orf", "pef"),
        *("raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f"),
    ),
}
"""Endings of images that are not read; they are refused by name, so that none is lost without a word."""
RAW = frozenset(OTHERS["camera raw"])
IMAGE_ENDINGS = frozenset((*IMAGES, *(ending for endings in OTHERS.values() for ending in endings)))
"""Endings of files that are meant to be images, whether they are read or not."""
NO_IMAGES = frozenset(
    (
        *("txt", "json", "jsonl", "xml", "csv", "tsv", "yaml", "yml", "md", "rst", "toml", "ini", "cfg", "log", "html"),
        *("npy", "npz", "mat", "h5", "hdf5", "parquet", "arrow", "pkl", "pt", "pth", "safetensors", "tar", "zip", "gz"),
        *(
            "py",
            "ipynb",
            "sh",
            "m",
            "pdf",
            "doc",
            "docx",
            "xls",
            "xlsx",
            "mp4",
            "mov",
            "avi",
            "mkv",
            "mp3",
            "wav",
            "db",
        ),
    )
)
"""Endings of files whose first bytes are not looked at."""
ANNOTATIONS = frozenset(["txt", "json", "jsonl", "xml", "csv", "tsv", "yaml", "yml", "mat", "h5", "npy"])
"""Endings of files that stand beside images and say what is in them."""
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"crx ": "camera raw"}  # of ISO base media files; others are HEIC's
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIU\x00", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"II*\x00\x10\x00\x00\x00CR", "camera raw"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
)
_WEAK = ("P1", "P2", "P3", "P4", "P5", "P6", "Pf", "PF", "P7")
LISTED = 5  # endings that a message names
CONVERT = "convert it to JPEG or PNG"


def ending(name: str) -> str:
    """Return the ending of a name in lower case, without its dot; empty where it has none."""
    return PurePosixPath(name).suffix.lower().removeprefix(".")


def image_format(start: bytes) -> str | None:
    """Return the format of an image, a key of `ENDINGS` or `OTHERS`, by its first `START` bytes; None: no image."""
    known = next((name for signature, name in _SIGNATURES if start.startswith(signature)), None)
    if known is not None:
        return known
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp":
        brands = [start[8:12], *(start[at : at + 4] for at in range(16, min(start[3], len(start)), 4))]
        first = next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
        return first or ("HEIC" if any(brand in _HEIC for brand in brands) else None)
    if start[:2] == b"BM" and start[14:18] in [size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124)]:
        return "BMP"
    if start[128:132] == b"DICM":
        return "DICOM"
    return "SVG" if b"<svg" in start and start.lstrip()[:1] == b"<" else None


def sort_images(names: Iterable[str], read_start: Callable[[str], bytes]) -> tuple[list[str], list[str]]:
    """Return the names of images and those of other files, each in the order of `names`.

    Args:
        names: Names of files, with or without the folders above them.
        read_start: Returns the first `START` bytes of a file, whose name alone does not tell what it is.
    """
    images, others = list[str](), list[str]()
    for name in names:
        kind = ending(name)
        is_image = kind in IMAGE_ENDINGS or (kind not in NO_IMAGES and image_format(read_start(name)) is not None)
        (images if is_image else others).append(name)
    return images, others


def read_start(file: Path) -> bytes:
    """Return the first `START` bytes of a file; none where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(START)
    except OSError:
        return b""


def describe_others(names: Sequence[str]) -> str:
    """Say how many files are no images, and which endings they have."""
    counts = Counter(f".{ending(name)}" if ending(name) else "no suffix" for name in names).most_common()
    first = ", ".join(f"{count:,} × {kind}" for kind, count in counts[:LISTED])
    more = f", and {len(counts) - LISTED:,} more kinds" if len(counts) > LISTED else ""
    return f"{len(names):,} files are no images ({first}{more})"


def image_column(name: str, data: bytes) -> str | None:
    """Return the column of an image: its ending where that says the format, else the format's own; None if unread.

    Args:
        name: The name of its file.
        data: Its bytes, or the first `START` of them.
    """
    given, found = ending(name), image_format(data[:START])
    if given in RAW:
        return None
    if found is None:  # formats without a sure signature
        return given if given in KEPT else "ppm" if data[:2].decode("latin-1") in _WEAK and given in IMAGES else None
    if found not in FORMATS:
        return None
    return given if given in ENDINGS[found] and given in KEPT else ENDINGS[found][0]


def describe_unread(data: bytes, name: str = "") -> FileKind:
    """Return what a file is that cannot be read as an image, and what to do with it.

    Args:
        data: Its bytes, or the first `START` of them.
        name: The name of the file, where it is known.
    """
    given, found = ending(name), image_format(data[:START])
    if given in RAW or found == "camera raw":
        return FileKind("a raw file of a camera", "develop it, and save it as JPEG or PNG")
    if found is not None:
        unread = f"a {found} that is damaged, or of a kind that Pillow does not read"
        return FileKind(unread if found in FORMATS else found, CONVERT)
    return file_kind(data[:START]) or FileKind("another file, or a damaged one", "copy it again, or convert it")
