"""Models on the hub: names with revisions, what is fetched, and what is said where nothing comes."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from small_models import small_model, written
from transformers import AutoModel, AutoProcessor

import tests.loopback_strange as loopback
from tests.loopback_hub import COMMIT
from unified.config.recipe import Recipe, StartSettings
from unified.config.task import Answer, Task
from unified.core import hub_files
from unified.core.errors import HubError, UserError
from unified.core.hub_files import AbsentError, HubName, hub_name, is_hub_name
from unified.hub import publish
from unified.hub.load import load, model_folder, open_model, pinned, repository, training_record, write
from unified.modalities.text.tokenizer import TextTokenizer
from unified.model.processor import UnifiedProcessor
from unified.train.monitor.run_folder import RunFolder
from unified.train.training_data import with_pinned_start


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(small_model(), tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture
def server(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub on this machine, which this process asks."""
    over = threading.Event()
    files = {path.name: path.read_bytes() for path in exported.iterdir()}
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), loopback.strange(files, over))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{httpd.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    settings = {"ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False}
    for name, value in {**settings, "HF_HUB_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hub_files, "HF_HUB_ETAG_TIMEOUT", 0.3)
    yield address
    over.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("org/tiny", HubName("org/tiny")),
        ("org/tiny@v1", HubName("org/tiny", "v1")),
        ("org/tiny.v2@refs/pr/7", HubName("org/tiny.v2", "refs/pr/7")),
        (f"org/tiny@{COMMIT}", HubName("org/tiny", COMMIT)),
        *(
            (text, None)
            for text in ("tiny", "a/b/c", "../tiny", "org/..", "org/a..b", "/org/tiny", "org/tiny.git", "@v1")
        ),
        *((text, None) for text in ("tiny@v1", "org/@v1", "ör/tiny", "org/a--b", "org /tiny", "", "https://x.org/a@b")),
    ],
)
def test_names_on_the_hub(reference: str, name: HubName | None) -> None:
    assert hub_name(reference) == name
    assert name is None or str(name) == reference
    assert is_hub_name(reference) == (name is not None and name.revision is None)


@pytest.mark.parametrize(
    "revision", ["", "..", "a/../b", "/etc", "a b", "a\nb", "-x", "a//b", "a/", "x" * 300, "v1@v2", "a?b"]
)
def test_revisions_that_are_none_are_told(revision: str, exported: Path) -> None:
    with pytest.raises(HubError, match=r"expected a branch, a tag or a commit after org/tiny@, got") as caught:
        load(f"org/tiny@{revision}")
    assert "\n" not in str(caught.value)
    with pytest.raises(HubError, match="expected a branch, a tag or a commit"):
        load("org/tiny", revision=revision)
    with pytest.raises(HubError, match="expected it once"):
        load("org/tiny@v1", revision="v1")


def test_a_folder_with_an_at_sign_is_a_folder(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "tiny@v1").symlink_to(exported)
    monkeypatch.chdir(tmp_path)
    assert open_model("org/tiny@v1").hub_name is None
    assert pinned("org/tiny@v1") == "org/tiny@v1"
    with pytest.raises(HubError, match="revision: expected a name on the hub"):
        load("org/tiny@v1", revision="v1")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("portal", "an answer that is no JSON, as of a portal or a proxy"),
        ("gated", "Access to model org/gated is restricted"),
        ("empty", r"expected a model with a config\.json on the hub, got a repository without"),
        ("odd", r"expected the commit of a repository, got '\.\./\.\.'"),
        ("moved", "expected one state of the repository, got another meanwhile"),
        ("lost", "the hub gave none: .*404"),
        ("stalls", r"no answer within the seconds of HF_HUB_ETAG_TIMEOUT=0\.3"),
        ("stalls-later", r"no answer within the seconds of HF_HUB_ETAG_TIMEOUT=0\.3"),
        ("numbers", "the hub gave none: "),
    ],
)
@pytest.mark.parametrize("door", [load, UnifiedProcessor.from_pretrained, training_record, pinned])
def test_what_a_hub_answers_is_one_line(server: str, kind: str, message: str, door: object) -> None:
    if kind == "lost" and door is pinned:
        pytest.skip("no file but the configuration is fetched")
    with pytest.raises(HubError, match=message) as caught:
        door(f"org/{kind}")  # type: ignore[operator]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("portal", "the upload failed: an answer that is no JSON"),
        ("gated", "the upload failed: .*Access to model org/gated is restricted"),
        ("stalls", "the upload failed: no answer within the seconds of HF_HUB_ETAG_TIMEOUT"),
        ("tiny@v1", "expected the name of a repository on the hub, org/name"),
        ("..", "expected the name of a repository on the hub, org/name"),
    ],
)
def test_what_a_hub_answers_to_an_upload_is_one_line(server: str, exported: Path, kind: str, message: str) -> None:
    with pytest.raises(HubError, match=message) as caught:
        publish.push(exported, f"org/{kind}")
    assert "\n" not in str(caught.value)


def test_a_revision_is_resolved_and_recorded_wherever_a_name_is_taken(
    server: str, exported: Path, tmp_path: Path
) -> None:
    loaded = open_model("org/tiny@v1")
    assert loaded.source == f"org/tiny@{COMMIT}" == pinned("org/tiny")
    assert repository("org/tiny@v1") == "org/tiny"
    write(loaded, tmp_path, "copy")
    card = (tmp_path / "README.md").read_text()
    assert f"made from | org/tiny@{COMMIT}" in card
    assert "base_model: org/tiny\n" in card
    mian = r"org/tiny: no revision 'mian'; did you mean 'main'\? There are: main, v1"
    for door in (load, training_record, model_folder, UnifiedProcessor.from_pretrained):
        with pytest.raises(AbsentError, match=mian):
            door("org/tiny@mian")
    with pytest.raises(AbsentError, match=mian):
        load("org/tiny", revision="mian")
    with pytest.raises(UserError, match=mian):
        TextTokenizer.load("org/tiny@mian", 8)
    text = TextTokenizer.load("org/tiny@v1", 8)
    own = loaded.processor.tokenizers["text"]
    assert isinstance(own, TextTokenizer)
    assert text.tokenizer.get_vocab() == own.tokenizer.get_vocab()


def test_the_auto_classes_fetch_as_load_does(server: str, exported: Path) -> None:
    expected = load(exported)[0].state_dict()
    for name in ("org/tiny", "org/outside"):
        model = AutoModel.from_pretrained(name, revision="v1")
        assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
        assert model.name_or_path == name
    assert isinstance(AutoProcessor.from_pretrained("org/tiny"), UnifiedProcessor)


def test_files_beside_a_repository_are_never_fetched(server: str, exported: Path, tmp_path: Path) -> None:
    folder = model_folder("org/outside")
    assert {path.name for path in folder.iterdir()} == {path.name for path in exported.iterdir()}
    assert not list(tmp_path.rglob("evil*"))


def test_without_a_connection_the_copy_of_before_is_read(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load("org/tiny@v1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_model("org/tiny@v1").source == f"org/tiny@{COMMIT}"
    with pytest.raises(AbsentError, match="HF_HUB_OFFLINE"):
        load("org/tiny@v2")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert open_model("org/tiny@v1").source == f"org/tiny@{COMMIT}"


def test_a_run_keeps_the_commit_that_it_began_with(server: str, tmp_path: Path) -> None:
    task = Task("data", {"png": "image"}, "txt", Answer.of(candidates="batch"), "accuracy", 2)
    recipe = Recipe(tasks={"a": task}, max_steps=1, slots=1, start=StartSettings("org/tiny@v1"))
    begun = with_pinned_start(recipe, tmp_path / "run")
    assert begun.start == StartSettings(f"org/tiny@{COMMIT}")
    with RunFolder(tmp_path / "run") as folder:
        folder.start(begun, 0)
    moved = replace(recipe, start=StartSettings("org/tiny@later"))  # which this hub does not have
    assert with_pinned_start(moved, tmp_path / "run") == begun
    with pytest.raises(AbsentError, match="no revision 'later'"):
        with_pinned_start(moved, tmp_path / "other")
    local = replace(recipe, start=StartSettings("runs/tiny/model"))
    assert with_pinned_start(local, tmp_path / "other") == local


def test_results_name_the_commit(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unified.evaluate import commands

    asked = {}
    monkeypatch.setattr(commands, "load_spec", lambda spec: spec)
    monkeypatch.setattr(commands, "evaluate", lambda *_, name, **__: asked.update(name=name) or {"results": []})
    monkeypatch.setattr(commands, "results_table", json.dumps)
    commands.eval_command("org/tiny", ["none"])
    assert asked == {"name": f"org/tiny@{COMMIT}"}
