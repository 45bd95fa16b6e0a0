from pathlib import Path
from typing import Any

import pytest
from tiny import write_shards

from tests.evaluate.oracle import PROCESSOR, Oracle
from unified.core.errors import DataError
from unified.evaluate.commands import compare_command
from unified.evaluate.compare import compare, comparison_table
from unified.evaluate.results import write_results
from unified.evaluate.run import evaluate
from unified.evaluate.spec import Classification, Spec

NAMES = ("red", "green", "blue", "grey")


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(write_shards(tmp_path / "data", 48))


def run(data: str, model: Oracle, limit: int | None = None, seeds: int = 3, **options: Any) -> dict[str, Any]:
    evaluation = Classification(data=data, labels=NAMES, train_share=0.5, limit=limit, **options)
    return evaluate(model, PROCESSOR, [Spec("s", {"colours": evaluation})], shots=(0, 2), seeds=seeds)


def test_equal_models_differ_by_nothing(data: str) -> None:
    found = compare(run(data, Oracle()), run(data, Oracle()))
    assert {row.metric for row in found} == {"acc1", "lp_acc1"}
    for row in found:
        assert (row.paired.difference, row.paired.low, row.paired.high) == (0, 0, 0)


def test_a_model_that_reads_one_name_wrongly_is_worse_and_the_test_is_exact(data: str) -> None:
    zero_shot, probe = compare(run(data, Oracle()), run(data, Oracle({"blue": "green"})))
    assert zero_shot.paired.difference == pytest.approx(0.25)
    assert zero_shot.paired.test == "mcnemar"
    assert zero_shot.paired.p == pytest.approx(2 * 0.5**12)
    assert probe.paired.difference == 0  # probes read no names
    assert probe.seeds is not None
    assert len(probe.seeds.values) == 3
    table = comparison_table([zero_shot, probe])
    assert "+25.0" in table
    assert "0.0005" in table
    assert "(3 seeds)" in table


def test_other_items_are_an_error_with_counts(data: str) -> None:
    with pytest.raises(DataError, match=r"A has 48, B has 20; 28 only in A, 0 only in B"):
        compare(run(data, Oracle()), run(data, Oracle(), limit=20))


def test_other_subsets_are_an_error(data: str) -> None:
    with pytest.raises(DataError, match="subsets differ"):
        compare(run(data, Oracle()), run(data, Oracle(), seeds=2))


def test_nothing_in_common_is_an_error(data: str) -> None:
    first, second = run(data, Oracle()), run(data, Oracle())
    for item in second["results"]:
        item["dataset"] = "other"
    with pytest.raises(DataError, match="no evaluation in common: A has colours"):
        compare(first, second)


def test_other_data_under_the_same_keys_are_an_error(data: str, tmp_path: Path) -> None:
    first, second = run(data, Oracle()), run(data, Oracle())
    second["results"][0]["data_hash"] = "0"
    with pytest.raises(DataError, match="the data behind them differ"):
        compare(first, second)


def test_texts_of_other_tokenizers_are_not_compared(data: str) -> None:
    first, second = run(data, Oracle()), run(data, Oracle())
    for results, terms in ((first, [2.0, 3.0]), (second, [2.0, 4.0])):
        items = results["results"][0]["items"]
        items["values"], items["terms"] = {"perplexity": [1.0, 2.0]}, {"perplexity": terms}
    with pytest.raises(DataError, match="different tokenizers cannot be compared"):
        compare(first, second)
    second["results"][0]["items"]["terms"] = first["results"][0]["items"]["terms"]
    second["results"][0]["items"]["values"] = {"perplexity": [1.0, 4.5]}
    row = compare(first, second)[0]
    assert row.metric == "loss (nats)"
    assert row.paired.difference == pytest.approx(-0.5)


def test_the_command_prints_the_table(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, model in zip(paths, (Oracle(), Oracle({"blue": "green"})), strict=True):
        write_results(path, run(data, model))
    compare_command(*paths)
    printed = capsys.readouterr().out
    assert "A − B" in printed
    assert "zero-shot, bare names" in printed
