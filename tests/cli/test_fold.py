"""`unified fold`: what it prints, writes and refuses."""

import json
import sys
from pathlib import Path

import pytest
import torch
from small_models import random_inputs, small_model, words_and_images, written

from unified import checkpoint
from unified.cli.main import main
from unified.hub.load import load
from unified.model.processor import UnifiedProcessor
from unified.nn.moe.settings import ExpertSettings

EXPERTS = ExpertSettings(count=4, layers="all")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(small_model(EXPERTS), tmp_path_factory.mktemp("source") / "moe")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["unified", "fold", *map(str, arguments)])
    main()


def test_a_table_is_printed_and_the_folder_loads(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dense"
    run(monkeypatch, source, out, "--tasks", "caption", "classify")
    printed = capsys.readouterr().out
    found = json.loads((out / "fold.json").read_text())
    assert f"{found['stored']:,} parameters with all experts" in printed
    assert f"{found['deployed']:,} parameters for 4 rows" in printed
    assert f"{found['active']:,} parameters that one token passes" in printed
    for row in ("11011000", "11010101", "10011000", "10010110"):
        assert f"row {row}" in printed
    assert "task caption" in printed
    assert f"written to {out}" in printed
    before, after = load(source)[0], load(out)[0]
    with torch.no_grad():
        a, b = (model(**random_inputs(before), family="classify").logits_per_image for model in (before, after))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_rows_may_be_named_themselves_and_what_is_served_is_said(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, source, tmp_path / "dense", "--rows", "10011000")
    assert load(tmp_path / "dense")[0].config.experts["rows"] == ["10011000"]
    printed = capsys.readouterr().out
    assert "serves        row 10011000; other kinds of tokens are refused" in printed
    assert "parameters for 1 row\n" in printed


def test_a_run_is_folded_from_its_newest_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = tmp_path / "runs" / "moe", small_model(EXPERTS)
    model.config.save_pretrained(folder / "model")
    UnifiedProcessor.from_tokenizers(words_and_images()).save_pretrained(folder / "model")
    checkpoint.save(folder / "checkpoints", 7, {"weights": model.state_dict()}, {}, keep_last=1)
    run(monkeypatch, folder, tmp_path / "dense", "--tasks", "classify")
    assert (
        "weights of the run moe at step 7, folded for the rows 10011000" in (tmp_path / "dense/README.md").read_text()
    )
    pixels = random_inputs(model)["pixel_values"]
    with torch.no_grad():
        expected, found = (each.embed(pixel_values=pixels) for each in (model, load(tmp_path / "dense")[0]))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_experts_are_kept_where_asked(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, source, tmp_path / "same", "--keep-experts")
    before, after = (load(folder)[0] for folder in (source, tmp_path / "same"))
    assert after.config.experts == before.config.experts
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "captoin"], "error: --tasks: 'captoin' is no task of this model; did you mean 'caption'"),
        (["--rows", "10"], "error: --rows: '10' is no word of 8 bits"),
        (["--keep-experts", "--tasks", "caption"], "error: --keep-experts: writes the whole model; leave out"),
    ],
)
def test_wrong_flags_end_with_a_message_and_nothing_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, source, tmp_path / "out", *flags)
    assert str(caught.value.code).startswith(message)
    assert not list(tmp_path.iterdir())
