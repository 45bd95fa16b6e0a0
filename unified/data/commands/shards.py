"""What `unified shards …` does: build, inspect, verify, index. Each prints a table of what it made or found."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified.core.consent import allow_commands
from unified.core.errors import DataError, nearest, one_line, say
from unified.core.text_tables import aligned
from unified.data.builders.attributes import find_attributes
from unified.data.builders.boundaries import find_boundaries
from unified.data.builders.coco import find_coco
from unified.data.builders.computer_modern import build_computer_modern
from unified.data.builders.dense import Finder, Options, build_dense
from unified.data.builders.depth import find_depth
from unified.data.builders.digits import build_digits
from unified.data.builders.documentation import build_documentation
from unified.data.builders.folders import build_imagefolder, build_pairs, caption_files, captions_of
from unified.data.builders.glyphs import build_glyphs
from unified.data.builders.joints import find_joints
from unified.data.builders.masks import find_masks
from unified.data.builders.rows import SUFFIXES
from unified.data.builders.sources import Files, describe_frames
from unified.data.builders.table import build_table
from unified.data.builders.voc import find_voc
from unified.data.builders.yolo import find_yolo
from unified.data.commands.inspect import check_sample, choose, contact_sheet, describe
from unified.data.dataset_card import describe_for_others
from unified.data.shards.index import build_index, index_path, write_index
from unified.data.shards.patterns import MANIFEST, parts, read_manifest, shard_paths
from unified.data.shards.shards import Shards
from unified.data.shards.verify import verify as verify_shards

EMBEDDED: Mapping[str, Callable[[Path, int], dict[str, dict[str, Any]]]] = {
    "glyphs": build_glyphs,
    "digits": build_digits,
    "documentation": build_documentation,
    "computer_modern": build_computer_modern,
}
DENSE: Mapping[str, Finder] = {
    "coco": find_coco,
    "yolo": find_yolo,
    "voc": find_voc,
    "masks": find_masks,
    "depth": find_depth,
    "keypoints": find_joints,
    "attributes": find_attributes,
    "boundaries": find_boundaries,
}
KINDS = ("imagefolder", "pairs", "table", *DENSE)
OPTIONS_OF = {
    "columns": ("table", "attributes"),
    "held_out": KINDS,
    "held_out_by": KINDS,
    "classes": ("masks", "voc"),
    "ignore": ("masks", "yolo"),
    "depth_unit": ("depth",),
    "crops": ("coco",),
}
PROBLEMS_PRINTED = 20


def build(
    source: str,
    out: Path,
    *,
    kind: str | None = None,
    options: Options | None = None,
    skip_existing: bool = False,
) -> None:
    """Pack an embedded data set (`EMBEDDED`) or a user's files into shards in the new folder `out`.

    `kind` is guessed from the files where it is None. `skip_existing` accepts a complete folder that is there already.
    """
    options = options or Options()
    if skip_existing and out.is_dir() and any(out.iterdir()):
        manifests = {Path(part).name: read_manifest(Path(part)) for part in parts(out)}
        _check_whole(out, manifests)
        _check_kind(out, manifests, kind or source)
        _check_parts(out, manifests, options)
        say(f"{out} is complete already; nothing was built.")
    elif source in EMBEDDED and kind is None:
        _check_options(Path(source), source, options)
        manifests = EMBEDDED[source](out, options.samples_per_shard)
    else:
        manifests = _build_own(Path(source), out, kind, options)
    _summarise(out, manifests)


def _check_whole(out: Path, manifests: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse manifests that do not say what the table of a build does."""
    for part, manifest in manifests.items():
        missing = [key for key in ("kind", "samples", "columns") if key not in manifest]
        missing += ["bytes" for shard in manifest["shards"] if "bytes" not in shard][:1]
        if missing:
            raise DataError(
                f"{out}: --skip-existing: expected a complete manifest of {part or 'the shards'}, got one without "
                f"{', '.join(missing)}. Hint: build into another folder"
            )


def _check_kind(out: Path, manifests: Mapping[str, Mapping[str, Any]], wanted: str) -> None:
    """Refuse to take one data set for another."""
    known = {*EMBEDDED, *KINDS}
    found = {str(manifest.get("kind")) for manifest in manifests.values()}
    if wanted in known and found != {wanted}:
        raise DataError(f"{out}: holds shards of {', '.join(sorted(found))}, not of {wanted}; name another folder")


def _check_parts(out: Path, manifests: Mapping[str, Mapping[str, Any]], options: Options) -> None:
    """Refuse to take data without a held-out part for data with one."""
    if options.held_out is not None and {"train", "test"} - set(manifests):
        raise DataError(f"{out}: expected the parts train and test, got shards without. Hint: name another folder")


def _build_own(source: Path, out: Path, kind: str | None, options: Options) -> dict[str, dict[str, Any]]:
    if not source.exists():
        raise DataError(
            f"{source}: no such file or folder, and no embedded data set{nearest(str(source), list(EMBEDDED))}"
        )
    chosen = kind or guess_kind(source)
    _check_options(source, chosen, options)
    if chosen in DENSE:
        return build_dense(chosen, DENSE[chosen], source, out, options)
    if chosen == "table":
        return build_table(source, out, options)
    if chosen == "imagefolder":
        return build_imagefolder(source, out, options)
    if chosen == "pairs":
        return build_pairs(source, out, options)
    raise DataError(f"{chosen!r} is no kind of source{nearest(chosen, KINDS)}")


def _check_options(source: Path, kind: str, options: Options) -> None:
    """Refuse an option that the kind would not read."""
    if options.held_out is None and options.held_out_by != Options().held_out_by:
        raise DataError(f"{source}: --held-out-by: expected --held-out beside it, got none. Hint: --held-out 0.2")
    for name, kinds in OPTIONS_OF.items():
        if getattr(options, name) != getattr(Options(), name) and kind not in kinds:
            flag = name.replace("_", "-")
            raise DataError(f"{source}: --{flag} is for {', '.join(kinds)}; this is built as {kind!r}")


def guess_kind(source: Path) -> str:
    """The kind of a source: a table by its suffix, pairs where captions lie beside pictures, else class folders."""
    if source.suffix.lower() in SUFFIXES:
        return "table"
    with Files(source) as files:
        images, texts = files.images(), caption_files(files.names)
    if any(captions_of(name, texts) for name in images):
        return "pairs"
    if any("/" in name for name in images):
        return "imagefolder"
    raise DataError(
        f"{source}: found {len(images):,} pictures, but neither class folders nor .txt captions of the same names; "
        f"say what it is with --kind ({', '.join(KINDS)})"
    )


def _summarise(out: Path, manifests: Mapping[str, Mapping[str, Any]]) -> None:
    rows = []
    for split, manifest in manifests.items():
        size = sum(shard["bytes"] for shard in manifest["shards"])
        counts = ", ".join(f"{name} {count:,}" for name, count in manifest["columns"].items())
        rows.append(
            [split or "all", f"{manifest['samples']:,}", str(len(manifest["shards"])), _megabytes(size), counts]
        )
    say(table(["split", "samples", "shards", "MB", "columns"], rows))
    if any("name_ceiling" in manifest for manifest in manifests.values()):
        _summarise_glyphs(manifests)
    for split, manifest in manifests.items():
        if "frames" in manifest:
            say(f"{split or out.name}: {describe_frames(manifest['frames'])}.")
    for split, manifest in manifests.items():
        if "skipped" in manifest:
            say(f"{split or out.name}: {len(manifest['skipped']):,} bad entries left out; {MANIFEST} lists them.")
    say(f"Written to {out}. Look at it with: unified shards inspect {out}")


def _summarise_glyphs(manifests: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        [
            split,
            f"{manifest['characters']:,}",
            str(len(manifest["fonts"])),
            f"{manifest['left_out_as_copies']:,}",
            f"{100 * manifest['name_ceiling']:.1f} %",
            f"{100 * manifest['script_ceiling']:.1f} %",
        ]
        for split, manifest in manifests.items()
    ]
    say(table(["split", "characters", "fonts", "copies left out", "name ceiling", "script ceiling"], rows))
    say("ceiling: the best accuracy from the picture alone if characters drawn alike did not count as the same.")


def inspect(path: str, out: Path = Path("contact_sheet.png"), *, count: int = 32) -> None:
    """Print some samples of the shards as a table and draw their pictures on one sheet, `out`.

    Samples with a column that cannot be read are shown without it; an error at the end names the first.
    """
    if count < 1:
        raise DataError(f"count: expected at least 1, found {count}")
    folders = parts(path)
    samples = []
    for part in folders:
        with allow_commands([str(part)]):  # named on the command line
            shards = Shards.open(part)
        columns = ", ".join(shards.columns)
        say(f"{part}: {len(shards):,} samples in {len(shards.sizes)} shards; columns: {columns}")
        samples += choose(shards, -(-count // len(folders)))
    checked = [check_sample(raw) for raw in samples]
    described = [describe(raw, wrong) for raw, wrong in checked]
    names = list(dict.fromkeys(name for row in described for name in row))
    say(table(names, [[row.get(name, "") for name in names] for row in described]))
    pictures = contact_sheet([raw for raw, _ in checked], out)
    say(f"{pictures} pictures drawn in {out}" if pictures else "no pictures in these shards")
    if bad := [reason for _, wrong in checked for reason in list(wrong.values())[:1]]:
        raise DataError(
            f"{path}: expected samples that can be read, got {len(bad)} of {len(checked)} that cannot: {bad[0]}"
            f". Hint: list all with: unified shards verify {path}"
        )


def verify(path: str) -> None:
    """Check hashes, counts and every column of every sample; raises `DataError` where anything is wrong."""
    found = verify_shards(path)
    rows = [[name, f"{count:,}"] for name, count in sorted(found.columns.items())]
    say(table(["column", "samples"], rows))
    if set(found.frames) - {1}:
        say(f"{describe_frames({str(count): found.frames[count] for count in found.frames})}.")
    if found.not_decoded:
        say(f"read but not decoded: {', '.join(sorted(found.not_decoded))}")
    if found.problems:
        more = len(found.problems) - PROBLEMS_PRINTED
        listed = [*map(one_line, found.problems[:PROBLEMS_PRINTED])] + ([f"… and {more:,} more"] if more > 0 else [])
        raise DataError(f"{path}: {len(found.problems):,} problems\n  " + "\n  ".join(listed))
    say(f"{path}: {found.samples:,} samples in {found.shards} shards are whole.")


def index(path: str) -> None:
    """Build the index of each tar anew, and write what other tools read of a folder (`dataset_card.py`)."""
    rows = []
    for part in parts(path):
        for shard in shard_paths(part):
            built = build_index(shard)
            write_index(built, index_path(shard))
            rows.append([str(shard), f"{len(built):,}", ", ".join(sorted(built.columns))])
    if Path(path).is_dir():
        describe_for_others(Path(path), Path(path).absolute().name)
    say(table(["shard", "samples", "columns"], rows))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of aligned columns under a heading; columns of numbers stand to the right."""
    return aligned(head, [[one_line(cell) for cell in row] for row in rows])
