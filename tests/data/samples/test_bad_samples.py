"""A bad sample is a bad sample, whatever it raises: named, counted and replaced; it never ends more than itself."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from squares import LISTS, picture, recipe, tasks

from unified.config.labels import Labels
from unified.core.errors import DataError, UserError
from unified.data.commands import shards as commands
from unified.data.commands.inspect import check_sample, describe
from unified.data.samples.decode import decode, read_string, using
from unified.data.shards.shards import Shards
from unified.data.shards.verify import verify
from unified.data.shards.write import ShardWriter
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer
from unified.modalities.text.tokenizer import TextTokenizer
from unified.pipeline.loader import StepLoader

SPEC = ImageSpec(height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resample=2)
TOKENIZERS: dict[str, Any] = {"image": ImageTokenizer(SPEC, patch=8), "text": TextTokenizer.load("text", 16)}
DEEP = b"[" * 200_000 + b"]" * 200_000
Columns = dict[str, Any]


def npy(header: str) -> bytes:
    """An array of this header and four bytes."""
    padded = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + bytes(4)


def objects() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


def facts(change: Callable[[dict[str, Any]], object]) -> Callable[[Columns], Columns]:
    def changed(columns: Columns) -> Columns:
        change(columns["json"])
        return columns

    return changed


def of_object(**change: Any) -> Callable[[Columns], Columns]:
    return facts(lambda found: found["objects"][0].update(change))


FACTS: dict[str, tuple[str, Callable[[Columns], Columns]]] = {
    "objects [5]": ("boxes", facts(lambda found: found.update(objects=[5]))),
    "objects null": ("boxes", facts(lambda found: found.update(objects=None))),
    "objects by name": ("boxes", facts(lambda found: found.update(objects={"a": 1}))),
    "objects within a list": ("count", facts(lambda found: found.update(objects=[[5]]))),
    "no objects": ("count", facts(lambda found: found.pop("objects"))),
    "box of texts": ("boxes", of_object(box=["0", "0", "5", "5"])),
    "box of truths": ("boxes", of_object(box=[False, False, True, True])),
    "box of NaN": ("boxes", of_object(box=[0, 0, float("nan"), 5])),
    "box of a number": ("boxes", of_object(box=7)),
    "box without end": ("boxes", of_object(box=[0, 0, 10**400, 5])),
    "no box": ("boxes", facts(lambda found: found["objects"][0].pop("box"))),
    "label a list": ("boxes", of_object(label=["red"])),
    "label null": ("boxes", of_object(label=None)),
    "label a mapping": ("count", of_object(label={"red": 1})),
    "label unknown": ("boxes", of_object(label="blue")),
    "mask a text": ("masks", of_object(mask="abc")),
    "mask of another size": ("masks", of_object(mask={"size": [9, 9], "counts": "0"})),
    "mask of a size that is none": ("masks", of_object(mask={"size": 5, "counts": "0"})),
    "mask of counts that are none": ("masks", of_object(mask={"size": [32, 32], "counts": "~~~~"})),
    "mask of no ASCII": ("masks", of_object(mask={"size": [32, 32], "counts": "ä" * 40})),
    "area infinite": ("boxes", of_object(area=float("inf"))),
    "area of 10^300": ("boxes", of_object(area=1e300)),
    "points a list": ("places", facts(lambda found: found.update(points=[1, 2]))),
    "point of two": ("places", facts(lambda found: found["points"].update(red=[1, 2]))),
    "point of 10^300": ("places", facts(lambda found: found["points"].update(red=[1e300, 2, 2]))),
    "points of an object a number": ("boxes", of_object(points=5)),
    "attributes a list": ("attributes", facts(lambda found: found.update(attributes=["red"]))),
    "attribute a list": ("attributes", facts(lambda found: found["attributes"].update(red=[1]))),
    "attribute true": ("attributes", facts(lambda found: found["attributes"].update(red=True))),
    "identity a number": ("who", facts(lambda found: found.update(identity=5))),
    "width a text": ("boxes", facts(lambda found: found.update(width="32"))),
    "width of 60000": ("masks", facts(lambda found: found.update(width=60_000, height=60_000))),
    "depth unit of 10^300": ("depth", facts(lambda found: found.update(depth_unit=1e300))),
    "depth unit a text": ("depth", facts(lambda found: found.update(depth_unit="mm"))),
    "facts a list": ("boxes", lambda columns: {**columns, "json": b"[1, 2]"}),
    "facts a number": ("boxes", lambda columns: {**columns, "json": b"7"}),
    "facts null": ("count", lambda columns: {**columns, "json": b"null"}),
    "facts of brackets": ("boxes", lambda columns: {**columns, "json": DEEP}),
    "facts of objects in objects": ("boxes", lambda columns: {**columns, "json": b'{"a":' * 100_000}),
    "facts in Latin-1": ("boxes", lambda columns: {**columns, "json": '{"a": "ä"}'.encode("latin-1")}),
    "facts a number of digits": ("boxes", lambda columns: {**columns, "json": b'{"width": ' + b"9" * 9000 + b"}"}),
    "facts missing": ("boxes", lambda columns: {name: columns[name] for name in columns if name != "json"}),
    "picture a text": ("boxes", lambda columns: {**columns, "png": b"hello"}),
    "picture empty": ("edges", lambda columns: {**columns, "png": b""}),
    "map of colours": ("edges", lambda columns: {**columns, "edges.png": columns["png"]}),
}


TASKS = sorted({task for task, _ in FACTS.values()})
TOLD_IN_TRAINING = (
    "facts a",
    "facts null",
    "facts missing",
    "no objects",
    "identity",
    "depth unit",
    "map of",
    "label unknown",
)
"""Records that are wrong for a task alone: no annotated pictures, or with facts that `verify` has no list for."""


def write(folder: Path, bad: list[str]) -> Path:
    """As many good pictures as bad ones, whose keys begin with "bad", and one more."""
    with ShardWriter(folder / "data", kind="test", source="test") as writer:
        for number, what in enumerate(bad):
            writer.write(f"good-{number:03d}", picture(number))
            columns = FACTS[what][1](picture(number))
            if isinstance(columns.get("json"), dict):
                columns["json"] = json.dumps(columns["json"]).encode()  # NaN too, as others write it
            writer.write(f"bad-{what.replace(' ', '_')}", columns)
        writer.write("good-last", picture(99))
    for name, listed in LISTS.items():
        (folder / f"{name}.txt").write_text("\n".join(listed) + "\n")
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_records_that_are_none_are_named_counted_and_replaced(
    tmp_path: Path, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [what for what in FACTS if FACTS[what][0] == task]
    folder = write(tmp_path, bad)
    labels = {task: Labels(LISTS["colours"])} if "names" in tasks(folder)[task]["answer"] else {}
    settings = {"workers": 0, "max_bad_fraction": 0.5}
    loader = StepLoader(recipe(folder, task, max_steps=len(bad), data=settings), TOKENIZERS, labels)
    steps = list(loader)
    read = [key for _, slots, _ in steps for _, batch in slots for key in batch.keys]
    assert all(key.startswith("good") for key in read)
    assert len(read) == 4 * len(bad)
    reasons = [reason for _, _, report in steps for reason in report.bad]
    assert loader.bad == len(reasons)
    for what in bad:
        told = [reason for reason in reasons if f"shard-00000.tar: bad-{what.replace(' ', '_')}: " in reason]
        assert told, what
        assert "Error" not in told[0], "it is told in the words of the data"
    assert "bad sample, replaced by the next good one" in caplog.text


def test_verify_and_inspect_name_all_of_them(tmp_path: Path) -> None:
    folder = write(tmp_path, list(FACTS))
    problems = verify(folder / "data").problems
    assert not any("good-" in problem for problem in problems)
    for what in FACTS:
        told = [problem for problem in problems if f"bad-{what.replace(' ', '_')}: " in problem]
        assert told or what.startswith(TOLD_IN_TRAINING), what
        assert not any("Error" in problem for problem in told)
    shards = Shards.open(folder / "data")
    checked = [check_sample(shards[number]) for number in range(len(shards))]
    for raw, wrong in checked:
        assert not wrong or raw["__key__"].startswith("bad-")
        describe(raw, wrong)
    told = {raw["__key__"] for raw, wrong in checked if wrong}
    assert {problem.partition(": ")[2].partition(": ")[0] for problem in problems} == told


def test_inspect_shows_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, ["objects [5]", "facts of brackets"])
    with pytest.raises(DataError, match=r"expected samples that can be read, got 2 of 5 that cannot: .*bad-"):
        commands.inspect(str(folder / "data"), tmp_path / "sheet.png")
    assert capsys.readouterr().out.count("good-") == 3


VALUES: dict[str, tuple[str, bytes]] = {
    "array of 7 TiB": ("npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }")),
    "array of a negative side": ("npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }")),
    "array of objects": ("npy", objects()),
    "array of no type": ("npy", npy("{'descr': '|V0', 'fortran_order': False, 'shape': (9999999999,), }")),
    "header that runs": ("npy", npy("__import__('os').system('true')")),
    "header of brackets": ("npy", npy("(" * 100)),
    "pickle": ("pkl", b"cos\nsystem\n(S'true'\ntR."),
    "MessagePack of brackets": ("mp", b"\x91" * 100_000),
    "MessagePack of 4 billion": ("mp", b"\xdd\xff\xff\xff\xff"),
    "MessagePack of a time": ("mp", b"\xd6\xff\x00\x00\x00\x00"),
    "number of digits": ("cls", b"9" * 9000),
    "number of no digits": ("cls", b"\xff"),
    "text of no Unicode": ("txt", b"\xff\xfe"),
    "lone surrogate": ("json", b'{"words": "\\ud83d"}'),
    "words a number": ("json", b'{"words": 5}'),
    "words null": ("json", b'{"words": null}'),
    "no words": ("json", b"{}"),
    "brackets": ("json", DEEP),
}


@pytest.mark.parametrize("what", VALUES)
def test_values_that_are_no_text_are_told_with_their_column(tmp_path: Path, what: str) -> None:
    column, data = VALUES[what]
    with ShardWriter(tmp_path / "data", kind="x", source="x") as writer:
        writer.write("a", {column: data})
    wanted = "json.words" if column == "json" else column
    with pytest.raises(DataError, match=rf"shard-00000\.tar: a: column '{wanted[:4].strip('.')}") as caught:
        read_string(decode(Shards.open(tmp_path / "data")[0], [wanted]), wanted)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_whatever_a_block_raises_is_told_with_the_place_of_the_sample() -> None:
    sample = {"__shard__": "a.tar", "__key__": "7"}
    for error in (RecursionError("too deep"), MemoryError(), KeyError("x"), torch.OutOfMemoryError("all of it")):
        with (
            pytest.raises(
                DataError, match=f"^a.tar: 7: expected a sample that can be used, got {type(error).__name__}"
            ),
            using(sample),
        ):
            raise error
    told = UserError("b.tar: 9: expected this")
    with pytest.raises(UserError, match=r"^b\.tar") as caught, using(sample):
        raise told
    assert caught.value is told
    with pytest.raises(KeyboardInterrupt), using(sample):
        raise KeyboardInterrupt


def test_json_of_a_sample_has_a_limit(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data", kind="x", source="x") as writer:
        writer.write("a", {"json": b" " * (33 << 20)})
    with pytest.raises(DataError, match="expected at most 33,554,432 bytes of JSON"):
        decode(Shards.open(tmp_path / "data")[0], ["json.words"])
