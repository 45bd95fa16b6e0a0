"""Shards by URL: the same samples as from the disk, whatever happens on the way."""

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.shard_server import Fault, ShardServer, serve
from unified.config.recipe import DataSettings
from unified.core.consent import allow_commands
from unified.core.errors import DataError
from unified.core.locations import is_remote, shown
from unified.core.seed import generator
from unified.data.commands import shards as commands
from unified.data.remote import download
from unified.data.remote.download import Download
from unified.data.remote.transfer import RefusedError, UnavailableError
from unified.data.shards.index import index_path
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter

NAMES = [f"shard-{number:05d}.tar" for number in range(3)]


def write(folder: Path, samples: int = 12, per_shard: int = 4, size: int = 30_000) -> Path:
    with ShardWriter(folder, kind="test", source="test", samples_per_shard=per_shard) as writer:
        for number in range(samples):
            writer.write(f"{number:03d}", {"bin": generator("bytes", number).bytes(size), "cls": number})
    return folder


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return write(tmp_path / "d")


@pytest.fixture
def server(local: Path) -> Iterator[ShardServer]:
    with serve(local) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSettings:
    monkeypatch.setattr(download, "FIRST_WAIT", 0.002)
    return DataSettings(shard_cache=str(tmp_path / "cache"), retries=3, timeout=0.3)


def samples(shards: Shards) -> list[dict[str, Any]]:
    return [{**shards[number], "__shard__": ""} for number in range(len(shards))]


def same(remote: Shards, local: Path) -> bool:
    expected = Shards.open(local)
    return (remote.digest, remote.sizes, remote.columns) == (expected.digest, expected.sizes, expected.columns) and (
        samples(remote) == samples(expected)
    )


def cached(settings: DataSettings, ending: str) -> list[Path]:
    return sorted(Path(str(settings.shard_cache)).glob(f"*{ending}"))


def test_a_folder_is_known_from_its_manifest(server: ShardServer, local: Path, settings: DataSettings) -> None:
    shards = Shards.open(f"{server.url}/", settings)
    assert server.requests == [("manifest.json", 0, "")], "training may begin before any shard is here"
    assert shards[5]["__shard__"] == f"{server.url}/{NAMES[1]}"
    assert server.asked(NAMES[1]) == [0]
    assert server.asked(NAMES[0]) == []
    assert same(shards, local)
    assert same(Shards.open(f"{server.url}/manifest.json", settings), local)
    assert len(server.asked(NAMES[0])) == 1


def test_tars_are_known_from_their_indexes(server: ShardServer, local: Path, settings: DataSettings) -> None:
    (local / "manifest.json").unlink()
    shards = Shards.open(f"{server.url}/shard-{{00000..00002}}.tar", settings)
    assert sorted(name for name, _, _ in server.requests) == [f"{name}.idx" for name in NAMES]
    assert same(shards, local)


@pytest.mark.parametrize("manifest", [False, True])
def test_tars_without_indexes(
    server: ShardServer, local: Path, settings: DataSettings, manifest: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pattern = f"{server.url}/" if manifest else f"{server.url}/shard-{{00000..00002}}.tar"
    expected = samples(Shards.open(local))
    for name in NAMES:
        index_path(local / name).unlink()
    with caplog.at_level(logging.INFO, "unified"):
        shards = Shards.open(pattern, settings)
    assert ("3 of 3 shards have no index beside them: they are fetched now" in caplog.text) is not manifest
    assert samples(shards) == expected
    caplog.clear()
    again = Shards.open(pattern, settings)
    assert samples(again) == expected
    assert [server.asked(name) for name in NAMES] == [[0]] * 3
    assert not caplog.records


def test_other_protocols_and_commands(local: Path, settings: DataSettings) -> None:
    memory = fsspec.filesystem("memory")
    for path in local.iterdir():
        memory.pipe(f"/bucket/d/{path.name}", path.read_bytes())
    assert same(Shards.open("memory://bucket/d/", settings), local)
    assert same(Shards.open("memory://bucket/d/shard-{00000..00002}.tar", settings), local)
    command = f"pipe:cat {local}/shard-{{00000..00002}}.tar"
    with allow_commands([command]):
        assert same(Shards.open(command, settings), local)
    mixed = Shards.open([str(local / NAMES[0]), f"memory://bucket/d/{NAMES[1]}"], settings)
    assert (len(mixed), len(mixed.remote)) == (8, 1)
    with pytest.raises(RefusedError, match=r"memory://bucket/d/none.tar.*FileNotFound"):
        Shards.open("memory://bucket/d/none.tar", settings)
    with pytest.raises(UnavailableError, match="protocol cannot be read here"):
        Shards.open("nonsense://bucket/d/", settings)


@pytest.mark.parametrize(
    ("faults", "asked", "logged"),
    [
        ([Fault(500)] * 3, [0] * 4, "HTTP 500"),
        ([Fault(503, {"Retry-After": "0"}), Fault(429)], [0] * 3, "HTTP 429"),
        ([Fault(stop_after=50_000), Fault(stop_after=20_000)], [0, 50_000, 70_000], "ended after 50,000 of"),
        ([Fault(stall_after=40_000)], [0, 40_000], "no byte for 0.3 s"),
        ([Fault(stop_after=50_000), Fault(ignore_range=True)], [0, 50_000], "ended after"),
        ([Fault(corrupt=True), Fault(corrupt=True)], [0] * 3, "SHA-256"),
        ([Fault(stop_after=10_000)] * 8, [10_000 * number for number in range(9)], "(1 of 3)"),
    ],
    ids=["500", "busy", "cut off", "stalls", "no ranges", "corrupt", "often but further"],
)
def test_what_passes_is_tried_again(
    server: ShardServer,
    local: Path,
    settings: DataSettings,
    caplog: pytest.LogCaptureFixture,
    faults: list[Fault],
    asked: list[int],
    logged: str,
) -> None:
    server.faults[NAMES[0]] = list(faults)
    assert same(Shards.open(f"{server.url}/", settings), local)
    assert server.asked(NAMES[0]) == asked
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(asked) - 1
    assert any(logged in message for message in warnings)
    assert all(f"/{NAMES[0]}: " in message and "trying again in" in message for message in warnings)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(500), "given up after 4 attempts in a row; the last: HTTP 500"),
        (Fault(stall_after=0), "no byte for 0.3 s"),
        (Fault(corrupt=True), r"SHA-256 [0-9a-f]{64}, but [0-9a-f]{64} in its manifest or index"),
    ],
)
def test_what_does_not_pass_is_an_error(
    server: ShardServer, settings: DataSettings, fault: Fault, message: str
) -> None:
    server.faults[NAMES[0]] = [fault] * 10
    shards = Shards.open(f"{server.url}/", settings)
    with pytest.raises(UnavailableError, match=rf"{NAMES[0]}.*{message}"):
        shards[0]
    assert shards[4]["cls"] == b"4"


@pytest.mark.parametrize("state", [403, 404])
def test_refusals_are_final(server: ShardServer, settings: DataSettings, state: int) -> None:
    shards = Shards.open(f"{server.url}/", settings)
    server.faults[NAMES[0]] = [Fault(state)]
    with pytest.raises(RefusedError, match=f"{NAMES[0]}: HTTP {state}.*look at the address"):
        shards[0]
    assert server.asked(NAMES[0]) == [0]


def test_longer_and_shorter_files_are_told(server: ShardServer, local: Path, settings: DataSettings) -> None:
    shards = Shards.open(f"{server.url}/", settings)
    whole = (local / NAMES[0]).read_bytes()
    (local / NAMES[0]).write_bytes(whole + b"\0")
    with pytest.raises(UnavailableError, match=rf"found {len(whole) + 1:,} bytes, but {len(whole):,} in its manifest"):
        shards[0]
    (local / NAMES[0]).write_bytes(whole[:-1])
    with pytest.raises(UnavailableError, match=rf"found {len(whole) - 1:,} bytes, but {len(whole):,} in its"):
        shards[0]


def test_retry_after_is_kept_to(server: ShardServer, settings: DataSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LONGEST_WAIT", 0.2)
    waits: list[float] = []
    attempts = download.Attempts("http://x/a.tar", download.Patience(5, 1))
    monkeypatch.setattr(attempts._stop, "wait", waits.append)
    for wait in (0.15, 3600.0, 0.0):
        attempts.failed(download.TransferError("busy", wait))
    assert waits[:2] == [0.15, 0.2]
    again = download.Attempts("http://x/a.tar", download.Patience(5, 1))
    monkeypatch.setattr(again._stop, "wait", waits.append)
    for _ in range(3):
        again.failed(download.TransferError("busy"))
    assert waits[-1] == waits[2], "the jitter is a function of URL and attempt"


def test_secrets_are_sent_but_not_told(
    server: ShardServer, local: Path, settings: DataSettings, caplog: pytest.LogCaptureFixture
) -> None:
    address = server.url.replace("http://", "http://me:hush@")
    server.faults[NAMES[0]] = [Fault(500)]
    shards = Shards.open(f"{address}/?token=hush", settings)
    assert same(shards, local)
    assert {header for _, _, header in server.requests} == {f"Basic {base64.b64encode(b'me:hush').decode()}"}
    server.faults["none.tar"] = [Fault(500)] * 10
    server.faults["none.tar.idx"] = [Fault(404)]
    with pytest.raises(UnavailableError) as error:
        Shards.open(f"{address}/none.tar?token=hush", settings)
    told = f"{error.value} {caplog.text} {shards[0]['__shard__']}"
    assert "trying again" in told
    assert "hush" not in told
    assert shown("pipe:curl -H 'Token: hush' https://h/x-0.tar") == "pipe:curl … x-0.tar"
    assert shown("failed at https://u:hush@h/x?sig=hush now") == "failed at https://…@h/x?… now"
    assert shown("https://u:a@hush@h/x") == "https://…@h/x"


def test_patterns_that_are_no_list_are_refused(server: ShardServer, settings: DataSettings) -> None:
    with pytest.raises(DataError, match=r"name shards with braces"):
        Shards.open(f"{server.url}/*.tar", settings)
    with pytest.raises(RefusedError, match=r"elsewhere/manifest.json: HTTP 404.*with braces"):
        Shards.open(f"{server.url}/elsewhere/", settings)
    (server.folder / "manifest.json").write_text(
        json.dumps({"format": 1, "columns": {}, "shards": [{"path": "a.tar"}]})
    )
    with pytest.raises(DataError, match=r"shard 'a.tar': expected its size in bytes"):
        Shards.open(f"{server.url}/", settings)
    assert [is_remote(p) for p in ("s3://b/x.tar", "pipe:cat x", "a/b.tar", "/a/{0..3}.tar")] == [True, True] + [
        False
    ] * 2


def test_commands_that_fail(settings: DataSettings, tmp_path: Path) -> None:
    settings = DataSettings(shard_cache=settings.shard_cache, retries=1, timeout=0.3)
    with allow_commands(None), pytest.raises(UnavailableError, match=r"pipe:false … x.tar.*ended with status 1"):
        Shards.open("pipe:false # x.tar", settings)
    slow = r"pipe:echo … x.tar.*no byte of the command for 0.3 s"
    with allow_commands(None), pytest.raises(UnavailableError, match=slow):
        Shards.open(f"pipe:echo $$ >> {tmp_path}/ids; exec sleep 60 # x.tar", settings)
    left = [Path(f"/proc/{number}") for number in (tmp_path / "ids").read_text().split()]
    assert len(left) == 2
    assert not any(process.exists() for process in left)


def test_commands_for_shards_look_at_urls(
    server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    commands.inspect(f"{server.url}/?token=hush", tmp_path / "sheet.png", count=2)
    assert f"{server.url}/?…: 12 samples in 3 shards; columns: bin, cls" in capsys.readouterr().out
    for command in (commands.verify, commands.index):
        with pytest.raises(DataError, match="a URL; shards are checked and indexed where they lie"):
            command(f"{server.url}/")


def test_a_replaced_shard_is_no_silent_change(server: ShardServer, local: Path, settings: DataSettings) -> None:
    old = Shards.open(f"{server.url}/", settings)
    before = old[0]["bin"]
    for path in [*local.glob("*")]:
        path.unlink()
    write(local, samples=11, size=500)
    new = Shards.open(f"{server.url}/", settings)
    assert new.digest != old.digest
    assert new[0]["bin"] != before == old[0]["bin"]
    with pytest.raises(UnavailableError, match=r"in its manifest|ended after|SHA-256"):
        old[4]


def test_the_file_of_a_download_is_checked_before_it_is_gone_on_with(server: ShardServer, tmp_path: Path) -> None:
    whole = (server.folder / NAMES[0]).read_bytes()
    sha256 = Shards.open(server.folder / NAMES[0]).files[0].digest.hex()
    for left, asked in ((whole[:1000], [1000]), (whole, []), (whole + b"x", [0]), (b"x" * len(whole), [0])):
        server.requests.clear()
        (tmp_path / "x").write_bytes(left)
        with (tmp_path / "x").open("r+b", buffering=0) as file:
            Download(f"{server.url}/{NAMES[0]}", file, len(whole), sha256).run(download.Patience(1, 1.0))
        assert (tmp_path / "x").read_bytes() == whole
        assert server.asked(NAMES[0]) == asked
