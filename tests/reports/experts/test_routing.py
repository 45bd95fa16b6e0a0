"""Which experts a model uses: gate tables without data, counted choices with it, and what counts as wrong."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_recipe, with_experts, write_recipe
from torch import Tensor

from unified.answers.score import token_kinds
from unified.cli.app import call
from unified.cli.ends import guarded
from unified.core.errors import UserError
from unified.core.seed import torch_generator
from unified.hub.fold import folded_config
from unified.model.pretrained import UnifiedModel
from unified.reports.experts.commands import routing_command
from unified.reports.experts.interference import measure
from unified.reports.experts.routing import Routing, Row, Watch, check, count, gate_table, kinds_of_tasks
from unified.reports.source import Questions, Subject, chosen_tasks
from unified.train.build import build


def subject(folder: Path, router: str, **changes: object) -> Subject:
    """An untrained model with experts in both layers, whose gates tell rows apart."""
    recipe = with_experts(tiny_recipe(folder), router, layers="all", **changes)
    parts = build(recipe)
    parts.model.processor = parts.processor
    return Subject("tiny", parts.model.eval(), parts.tokenizers, "a test")


def questions(folder: Path, model: Subject) -> Questions:
    return Questions(model, tiny_recipe(folder), 3)


def routing(shares: Tensor, tokens: list[int] | None = None, top: int = 2) -> Routing:
    counted = tokens or [None] * len(shares)
    rows = tuple(Row(f"row {i}", ("a",), None, n) for i, n in enumerate(counted))
    return Routing("token", top, rows, {(0, "mlp"): shares})


PLACE = (0, "mlp")


def test_even_use_has_no_problems_and_tokens_weigh_rows() -> None:
    found = routing(torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]), tokens=[30, 10])
    assert found.load(PLACE).tolist() == [0.375, 0.375, 0.125, 0.125]
    assert found.problems(PLACE) == []
    assert routing(torch.eye(4)[[0, 1]]).load(PLACE).tolist() == [0.5, 0.5, 0, 0]


def test_collapse_crowding_and_dead_experts_are_named() -> None:
    one = torch.tensor([[0.99, 0.01, 0, 0]] * 2)
    assert [p.partition(":")[0] for p in routing(one, tokens=[5, 5]).problems(PLACE)] == ["collapsed", "dead"]
    crowded = torch.full((2, 100), 0.08 / 99)
    crowded[:, 7] = 0.92
    (problem,) = routing(crowded, tokens=[5, 5]).problems(PLACE)
    assert problem == "crowded: expert 7 has 92% of the load"
    unused = routing(torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]), tokens=[5, 5])
    assert unused.dead(PLACE) == [2]
    assert unused.problems(PLACE) == ["dead: no row has expert 2"]


def test_rows_that_are_not_kept_apart_are_a_problem_and_few_rows_are_none() -> None:
    same = torch.tensor([[0.6, 0.4, 0, 0, 0], [0.3, 0.7, 0, 0, 0]])
    (problem,) = routing(same).problems(PLACE)
    assert problem.startswith("same experts: all 2 rows")
    apart = torch.tensor([[0.6, 0.4, 0, 0, 0], [0, 0, 0.3, 0.7, 0]])
    assert routing(apart).problems(PLACE) == [], "two rows of two cannot use five experts"


@pytest.mark.parametrize("router", ["attribute", "task", "modality", "hash"])
def test_the_gate_table_is_what_the_encoder_mixes(tmp_path: Path, router: str) -> None:
    """Against the usage that the encoder itself reports for a pass of one kind of token."""
    model = subject(tmp_path, router).model
    found = gate_table(model, kinds_of_tasks(model, None))
    assert len({row.key for row in found.rows}) == len(found.rows)
    assert {task for row in found.rows for task in row.tasks} == set(tiny_recipe(tmp_path).tasks)
    batch = questions(tmp_path, Subject("tiny", model, model.processor.tokenizers, "")).batch("colour", 0)
    (kind, _) = token_kinds(tiny_recipe(tmp_path).tasks["colour"], "colour")
    usage = model.encode([(kind, batch.inputs["image"])]).routing
    row = next(i for i, r in enumerate(found.rows) if "colour" in r.tasks and r.key not in ("10010110", "text"))
    for layer, used in enumerate(usage):
        for decision, load in zip(("attention", "mlp"), used.load, strict=True):
            torch.testing.assert_close(found.shares[layer, decision][row], load / load.sum())


def test_recipes_stand_in_for_models_that_name_no_tasks(tmp_path: Path) -> None:
    model = subject(tmp_path, "attribute").model
    whole = kinds_of_tasks(model, None)
    model.config.tasks = {}
    with pytest.raises(UserError, match=r"--data RECIPE\.yaml"):
        kinds_of_tasks(model, None)
    assert kinds_of_tasks(model, tiny_recipe(tmp_path)) == whole


@pytest.mark.parametrize("router", ["token", "context"])
def test_choices_are_counted_by_task_and_modality(tmp_path: Path, router: str) -> None:
    asked = questions(tmp_path, subject(tmp_path, router))
    found = count(asked, 2)
    labels = [row.label for row in found.rows]
    assert sorted(labels) == sorted(
        [f"{task} · image" for task in ("retrieve", "colour", "caption")]
        + [f"{task} · text" for task in ("retrieve", "colour", "caption", "hidden", "next")]
    )
    assert list(found.shares) == [(0, "attention"), (0, "mlp"), (1, "attention"), (1, "mlp")]
    for shares in found.shares.values():
        torch.testing.assert_close(shares.sum(1), torch.ones(len(labels), dtype=torch.float64))
    patches = asked.batch("colour", 0).inputs["image"].values.shape[1]
    tokens = {row.label: row.tokens for row in found.rows}
    assert tokens["colour · image"] == 2 * 8 * (1 + patches)
    assert tokens["caption · image"] == 2 * 4 * (1 + patches)


@pytest.mark.parametrize("router", ["token", "context"])
def test_counts_of_all_parts_are_the_usage_that_the_encoder_reports(tmp_path: Path, router: str) -> None:
    asked = questions(tmp_path, subject(tmp_path, router))
    with torch.no_grad(), asked.model.encoder.sharing() as passes, Watch(asked.model) as watch:
        watch.task = "caption"
        asked.loss("caption", 0)
    for layer in (0, 1):
        for place, name in enumerate(("attention", "mlp")):
            load = sum(one[layer].load[place] for one in passes)
            counted = sum(watch.counts[layer, name].values())
            torch.testing.assert_close(counted.float(), load)
    assert set(watch.counts[0, "mlp"]) == {("caption", "image"), ("caption", "text")}
    before = {place: dict(counts) for place, counts in watch.counts.items()}
    asked.loss("caption", 0)
    assert watch.counts == before, "nothing is watched afterwards"


def test_experts_of_other_tasks_do_not_interfere(tmp_path: Path) -> None:
    """Gates that send two tasks to different experts make the inner product of their gradients exactly zero."""
    model = subject(tmp_path, "task")
    asked = Questions(model, chosen_tasks(tiny_recipe(tmp_path), ["hidden", "next"]), 3)
    families = model.model.config.families
    places = {"hidden": (0, 1), "next": (2, 3)}
    for layer in model.model.encoder.conditional_layers().values():
        for router in layer.values():
            with torch.no_grad():
                vectors = torch.randn(len(families), 32, generator=torch_generator("rows"))
                vectors = torch.nn.functional.layer_norm(vectors, (32,))
                router.embedding.weight.copy_(vectors)
                router.gate.weight.zero_()
                for task, experts in places.items():
                    router.gate.weight[list(experts)] = vectors[families.index(task)]
    found = measure(asked, batches=2)["0"].mean()
    assert found.tolist() == [[1, 0], [0, 1]]


def test_models_without_routers_say_so(tmp_path: Path) -> None:
    dense = build(tiny_recipe(tmp_path)).model
    with pytest.raises(UserError, match="a dense model, which has no routers"):
        check(dense, "runs/x")
    model = subject(tmp_path, "modality").model
    folded = UnifiedModel(folded_config(model.config, ["image", "text"]))
    with pytest.raises(UserError, match="a folded model"):
        check(folded, "runs/x")


def test_counting_needs_batches_and_known_families(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1"):
        count(questions(tmp_path, subject(tmp_path, "token")), 0)
    model = subject(tmp_path, "task").model
    kinds = kinds_of_tasks(model, None)
    model.config.families = ["other"]
    with pytest.raises(UserError, match="has no routing in this model"):
        gate_table(model, kinds)


def test_the_command_ends_with_words_for_a_dense_model(tmp_path: Path) -> None:
    parts = build(tiny_recipe(tmp_path))
    parts.model.save_pretrained(tmp_path / "model")
    parts.processor.save_pretrained(tmp_path / "model")
    arguments = ["report", "routing", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"error: .*a dense model, which has no routers"):
        guarded(call, arguments, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("router", ["attribute", "token"])
def test_the_command_writes_numbers_and_a_figure(
    tmp_path: Path, router: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = subject(tmp_path, router).model
    model.save_pretrained(tmp_path / "model")
    model.processor.save_pretrained(tmp_path / "model")
    texts = []
    for _ in range(2):
        routing_command(str(tmp_path / "model"), data=str(write_recipe(tmp_path)), batches=1, out=tmp_path / "out")
        texts.append((tmp_path / "out" / "routing.json").read_text())
    assert texts[0] == texts[1]
    found = json.loads(texts[0])
    assert (found["format"], found["router"], found["batches"]) == (1, router, int(router == "token"))
    use = found["use"]["1"]["mlp"]
    assert len(use["rows"]) == len(found["rows"])
    assert sum(use["load"]) == pytest.approx(1)
    assert 1 <= use["effective_experts"] <= 4
    with Image.open(tmp_path / "out" / "routing.png") as figure:
        assert figure.height > 500
    assert "effective experts" in capsys.readouterr().out
