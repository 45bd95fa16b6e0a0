"""Recipes are read strictly, and errors say what would fit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from unified.config.recipe import Recipe
from unified.core.errors import RecipeError, nearest
from unified.core.paths import data_folder
from unified.core.schema import build, merge, read_yaml


@dataclass(frozen=True)
class Part:
    size: int
    rate: float = 0.5
    kind: Literal["soft", "hard"] = "soft"


@dataclass(frozen=True)
class Whole:
    parts: dict[str, Part]
    pair: tuple[float, float] = (0.0, 1.0)
    words: str | Sequence[str] = ()
    limit: float | None = None
    flag: bool = False
    first: Part = field(default_factory=lambda: Part(1))
    free: Sequence[dict[str, Any]] = ()
    place: Path = Path()

    def __post_init__(self) -> None:
        if self.limit == 0:
            raise RecipeError("limit: 0 leaves nothing")


def whole(**values: Any) -> Whole:
    return build(Whole, {"parts": {}, **values}, "x.yaml")


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    return folder / f"{next(iter(files))}.yaml"


def test_dataclasses_in_mappings_and_in_each_other() -> None:
    found = whole(parts={"a": {"size": 3}, "b": {"size": 4, "kind": "hard"}}, first={"size": 9})
    assert found.parts == {"a": Part(3), "b": Part(4, kind="hard")}
    assert found.first == Part(9)


def test_sequences_become_tuples_and_free_mappings_stay_as_they_are() -> None:
    found = whole(pair=[1, 2], words=["x", "y"], free=[{"kind": "flip", "list": [1, {"a": None}]}], place="a/b")
    assert found.pair == (1.0, 2.0)
    assert all(type(number) is float for number in found.pair)
    assert found.words == ("x", "y")
    assert whole(words="x").words == "x"
    assert found.free == ({"kind": "flip", "list": [1, {"a": None}]},)
    assert found.place == Path("a/b")


def test_numbers_that_yaml_reads_as_text(tmp_path: Path) -> None:
    path = write(tmp_path, x="parts: {a: {size: 1, rate: 1e-4}}\nlimit: 5e3\npair: [1e-3, 2]\n")
    found = build(Whole, read_yaml(path), "x")
    assert (found.parts["a"].rate, found.limit, found.pair) == (1e-4, 5e3, (1e-3, 2.0))


def test_null_is_a_value_where_it_may_be() -> None:
    assert whole(limit=None).limit is None
    with pytest.raises(RecipeError, match=r"x.yaml.pair: expected a list, found None"):
        whole(pair=None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"part": {}}, r"x.yaml: 'part' is not a key of Whole; did you mean 'parts'\? There are: first, flag"),
        ({"parts": {"a": {"sise": 1}}}, r"x.yaml.parts.a: 'sise' is not a key of Part; did you mean 'size'"),
        ({"parts": {"a": {}}}, r"x.yaml.parts.a: size must be given"),
        ({"parts": {"a": 3}}, r"x.yaml.parts.a: expected the keys of Part, found 3"),
        ({"parts": [1]}, r"x.yaml.parts: expected keys and values, found \[1\]"),
        ({"first": {"size": "1"}}, r"x.yaml.first.size: expected int, found '1'"),
        ({"first": {"size": True}}, r"x.yaml.first.size: expected int, found True"),
        ({"first": {"size": 1.5}}, r"x.yaml.first.size: expected int, found 1.5"),
        ({"first": {"size": 1, "rate": "much"}}, r"x.yaml.first.rate: expected a number, found 'much'"),
        ({"first": {"size": 1, "rate": True}}, r"x.yaml.first.rate: expected float, found True"),
        ({"first": {"size": 1, "kind": "hrad"}}, r"x.yaml.first.kind: 'hrad' does not fit; did you mean 'hard'"),
        ({"flag": 1}, r"x.yaml.flag: expected bool, found 1"),
        ({"pair": [1, 2, 3]}, r"x.yaml.pair: expected 2 values, found 3"),
        ({"words": 3}, r"x.yaml.words: expected str, found 3 or x.yaml.words: expected a list, found 3"),
        ({"free": {"kind": "flip"}}, r"x.yaml.free: expected a list"),
        ({"limit": 0}, r"x.yaml: limit: 0 leaves nothing"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}"):
        whole(**values)


def test_extends_states_only_differences(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", second="parts: {b: {size: 2}}\nfirst: {size: 5, rate: 0.1}\n")
    path = write(
        tmp_path,
        x="extends: [first.yaml, sub/second.yaml]\nparts: {a: {rate: 0.25}}\nlimit: null\n",
        first="extends: base.yaml\nparts: {a: {size: 1}}\nfirst: {size: 4, kind: hard}\n",
        base="limit: 3\nflag: true\n",
    )
    found = build(Whole, read_yaml(path), "x")
    assert found == Whole(
        {"a": Part(1, 0.25), "b": Part(2)}, limit=None, flag=True, first=Part(5, rate=0.1, kind="hard")
    )


def test_extending_oneself_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, x="extends: y.yaml\n", y="extends: x.yaml\n")
    with pytest.raises(RecipeError, match=r"x.yaml: extends itself through x.yaml -> y.yaml"):
        read_yaml(path)


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, quickstart="a: 1\n")
    with pytest.raises(RecipeError, match=r"quikstart.yaml: no such file; did you mean 'quickstart.yaml'"):
        read_yaml(tmp_path / "quikstart.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: {c: 1,\n  c: 2}\n", r"x.yaml:3: 'c' is written twice"),
        ("a: 1\na: 2\n", r"x.yaml:2: 'a' is written twice"),
        ("a: [1\n", r"x.yaml: not valid YAML"),
        ("- 1\n", r"x.yaml: expected a mapping of keys to values, found list"),
        ("a: !!python/object/apply:os.getcwd []\n", r"x.yaml: not valid YAML"),
    ],
)
def test_yaml_that_is_no_recipe(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        read_yaml(write(tmp_path, x=content))


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, x="# nothing\n")) == {}


def test_merging_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}}
    assert merge(base, {"a": {"c": [3], "d": 4}, "e": None}) == {"a": {"b": 1, "c": [3], "d": 4}, "e": None}
    assert base == {"a": {"b": 1, "c": [1, 2]}}


def test_nearest_lists_all_that_exists() -> None:
    assert nearest("captoin", ["retrieve", "caption"]) == "; did you mean 'caption'? There are: caption, retrieve"
    assert nearest("zzz", ["caption"]) == ". There are: caption"
    assert nearest("zzz", []) == ". There are: none"


def test_a_recipe_checks_its_own_sense() -> None:
    task = {"data": "x", "inputs": {"png": "image"}, "target": "txt", "answer": {"candidates": "batch"}}
    values = {"tasks": {"t": {**task, "metric": "accuracy", "batch": 4}}, "max_steps": 1, "slots": 1}
    assert build(Recipe, values, "r.yaml").tasks["t"].batch == 4
    with pytest.raises(RecipeError, match=r"r.yaml: tasks: a recipe needs at least one task"):
        build(Recipe, {**values, "tasks": {}}, "r.yaml")
    with pytest.raises(RecipeError, match=r"r.yaml.tasks.t: 'wieght' is not a key of Task"):
        build(Recipe, {**values, "tasks": {"t": {**values["tasks"]["t"], "wieght": 1}}}, "r.yaml")
    with pytest.raises(RecipeError, match=r"r.yaml: model.heads: 7 does not divide model.width 768"):
        build(Recipe, {**values, "model": {"heads": 7}}, "r.yaml")


def test_extends_takes_the_names_of_the_project_from_any_folder(tmp_path: Path) -> None:
    own = write(tmp_path, x="extends: quickstart\nmax_steps: 5\n")
    found = build(Recipe, read_yaml(own), "x.yaml")
    assert found.max_steps == 5
    assert found.tasks == build(Recipe, read_yaml(data_folder("recipes") / "quickstart.yaml"), "q").tasks
    assert "road_scene" in read_yaml(write(tmp_path, y="extends: tasks/semantic_camvid\n"))["tasks"]
    spec = write(tmp_path, z="extends: digits\nevaluations: {digits_probes: null}\n")
    assert list(read_yaml(spec, "recipes/eval")["evaluations"]) == ["digits"]
    # A file beside it needs no ending; one that has the name of a recipe of the project is meant with its ending alone.
    write(tmp_path, mine="flag: true\n", quickstart="extends: quickstart\nslots: 7\n")
    assert read_yaml(write(tmp_path, w="extends: mine\n")) == {"flag": True}
    assert read_yaml(tmp_path / "quickstart.yaml")["slots"] == 7


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (
            "quikstart",
            r"x.yaml: extends: 'quikstart' is neither .* in recipes; did you mean 'quickstart'",
        ),
        ("tasks/semantic_camvd", r"did you mean 'tasks/semantic_camvid'"),
        ("mnie.yaml", r"did you mean 'mine'"),
        ("tasks", r"x.yaml: extends: expected a file, got the folder"),
        ("3", r"x.yaml: extends: expected a file or a name in recipes, got 3"),
    ],
)
def test_a_base_that_does_not_exist_names_the_nearest(base: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, x=f"extends: {base}\n", mine="a: 1\n")
    with pytest.raises(RecipeError, match=message):
        read_yaml(path)


def test_null_leaves_an_inherited_task_out(tmp_path: Path) -> None:
    base = "tasks: {a: {batch: 1}, b: {batch: 2}, c: {batch: 3}}\nlimit: 3\n"
    path = write(tmp_path, x="extends: base.yaml\ntasks: {a: null, c: null}\nlimit: null\n", base=base)
    assert read_yaml(path) == {"tasks": {"b": {"batch": 2}}, "limit": None}
    again = write(tmp_path, y="extends: x.yaml\ntasks: {a: {batch: 9}}\n")
    assert read_yaml(again)["tasks"] == {"a": {"batch": 9}, "b": {"batch": 2}}
    # A part that several recipes share may leave out what a file before it brings.
    listed = write(tmp_path, z="extends: [base.yaml, part.yaml]\n", part="tasks: {b: null}\n")
    assert list(read_yaml(listed)["tasks"]) == ["a", "c"]


def test_null_that_leaves_out_nothing_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, x="extends: base.yaml\ntasks: {wrods: null}\n", base="tasks: {words: {batch: 1}}\n")
    with pytest.raises(RecipeError, match=r"x.yaml: tasks.wrods: null leaves out .* did you mean 'words'"):
        read_yaml(path)
