from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from tiny import write_shards

from unified.core.errors import DataError, RecipeError, UserError
from unified.core.paths import data_folder
from unified.evaluate.sources import ImageFolder, open_source
from unified.evaluate.spec import Classification, Masked, Retrieval, load_spec


def spec_file(folder: Path, text: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(data_folder("recipes").glob("eval/*.yaml")), ids=lambda path: path.stem)
def test_specs_of_the_project_load_and_say_their_command(path: Path) -> None:
    assert load_spec(path.stem).evaluations
    head = path.read_text().splitlines()[:3]
    assert all(line.startswith("#") for line in head[:2])
    assert "unified " in "".join(head)


def test_quickstart_asks_for_everything() -> None:
    found = load_spec("quickstart").evaluations
    assert {type(e).__name__ for e in found.values()} == {
        *("Classification", "Retrieval", "Masked", "Caption", "Robustness")
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evaluations: {a: {kind: clasification, data: x}}", "did you mean 'classification'"),
        ("evaluations: {a: {kind: classification, data: x, lables: y}}", "did you mean 'labels'"),
        ("evaluations: {a: {kind: classification, data: x, probes: [svm]}}", "'svm' does not fit"),
        ("evaluations: {a: {kind: classification}}", "data must be given"),
        ("evaluations: {a: {kind: classification, data: []}}", "nothing given"),
        ("evaluations: {a: {kind: retrieval, data: x, ks: [0]}}", "expected numbers from 1"),
        ("evaluations: {a: {kind: caption, data: x, beams: [0]}}", "expected numbers from 1"),
        ("evaluations: {a: {kind: classification, data: x, limit: 0}}", "limit: 0"),
        ("evaluations: {a: {kind: classification, data: x, train: y, train_share: 0.5}}", "exclude each other"),
        ("evaluations: {a: {data: x}}", "`kind` must be given"),
        ("evaluations: {}", "at least one evaluation"),
        ("evaluation: {}", "did you mean 'evaluations'"),
        ("format: 2\nevaluations: {}", "expected a format up to 1, got 2"),
    ],
)
def test_wrong_specs_are_clear_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_spec(spec_file(tmp_path, text))
    assert "spec.yaml" in str(caught.value)


def test_an_unknown_name_lists_the_specs() -> None:
    with pytest.raises(RecipeError, match="did you mean 'digits'"):
        load_spec("digit")


def pictures(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number * 20, 0, 0)).save(folder / name)


def test_class_folders_are_recognised_and_read_like_shards(tmp_path: Path) -> None:
    pictures(tmp_path, "red_fox/b.png", "red_fox/a.JPG", "cat/c.png")
    (evaluation,) = load_spec(tmp_path).evaluations.values()
    assert isinstance(evaluation, Classification)
    assert evaluation.train_share == 0.5
    source = open_source(evaluation.several)
    assert isinstance(source, ImageFolder)
    assert [(s["__key__"], s["cls"]) for s in source] == [("cat/c", b"0"), ("red_fox/a", b"1"), ("red_fox/b", b"1")]
    assert Image.open(BytesIO(source[0]["png"])).size == (4, 4)
    before = source.digest
    pictures(tmp_path, "x/unused.png", "cat/c.png")
    assert ImageFolder(tmp_path).digest != before


def test_train_and_test_parts_are_recognised(tmp_path: Path) -> None:
    pictures(tmp_path, "train/cat/a.png", "test/cat/b.png")
    (evaluation,) = load_spec(tmp_path).evaluations.values()
    assert isinstance(evaluation, Classification)
    assert (evaluation.data, evaluation.train) == (str(tmp_path / "test"), str(tmp_path / "train"))


def test_shards_with_a_manifest_are_recognised_by_their_columns(tmp_path: Path) -> None:
    write_shards(tmp_path / "pairs", 4)
    (evaluation,) = load_spec(tmp_path / "pairs").evaluations.values()
    assert isinstance(evaluation, Retrieval)
    with pytest.raises(RecipeError, match="no data recognised"):
        load_spec(tmp_path)


def test_masked_spec_reads_text(tmp_path: Path) -> None:
    (evaluation,) = load_spec(spec_file(tmp_path, "evaluations: {a: {kind: masked, data: x}}")).evaluations.values()
    assert isinstance(evaluation, Masked)
    assert evaluation.inputs == {"txt": "text"}


def clip_benchmark(folder: Path, kind: str | None = None) -> Path:
    """The layout of CLIP_benchmark's webdataset folders."""
    for part in ("train", "test"):
        write_shards(folder / "made" / part, 24, 12)
        (folder / part).mkdir()
        for number, path in enumerate(sorted((folder / "made" / part).glob("*.tar"))):
            path.rename(folder / part / f"{number}.tar")
        (folder / part / "nshards.txt").write_text("2")
    (folder / "classnames.txt").write_text("red\ngreen\nblue\ngrey\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c} square\n")
    if kind:
        (folder / "dataset_type.txt").write_text(kind)
    return folder


def test_clip_benchmark_folders_are_recognised(tmp_path: Path) -> None:
    (evaluation,) = load_spec(clip_benchmark(tmp_path)).evaluations.values()
    assert isinstance(evaluation, Classification)
    assert evaluation.zero_shot == ("bare", "templates")
    assert evaluation.train == str(tmp_path / "train")
    assert len(open_source(evaluation.several)) == 24


def test_clip_benchmark_retrieval_has_a_caption_a_line(tmp_path: Path) -> None:
    (evaluation,) = load_spec(clip_benchmark(tmp_path, "retrieval")).evaluations.values()
    assert isinstance(evaluation, Retrieval)
    assert evaluation.lines


def test_multi_label_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="multi-label data are not supported"):
        load_spec(clip_benchmark(tmp_path, "multilabel"))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (clip_benchmark(tmp_path) / "test" / "nshards.txt").write_text("3")
    with pytest.raises(DataError, match=r"missing: 2\.tar"):
        open_source(str(tmp_path / "test"))


@pytest.mark.parametrize("kind", ["[retrieval]", "{a: b}", "5", "null", "2001-01-01", "~", "true"])
def test_kinds_that_are_no_text_are_no_kind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"evaluations: {{a: {{kind: {kind}, data: x}}}}\n")
    with pytest.raises(RecipeError, match=r"a\.kind: .* is no kind of evaluation"):
        load_spec(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("5: x\nevaluations: {}", "5 is not a key of a spec"),
        ("format: [1]", r"expected a format up to 1, got \[1\]"),
        ("? [a]\n: b", "expected a text or a number as a key"),
        ("format: !!int x", "not valid YAML"),
        ("format: 2001-99-99", "not valid YAML"),
        ("a: &a [*a]", "not valid YAML|levels|is not a key"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "'a' is not a key"),
        ("evaluations: [1]", "`evaluations` must name"),
        ("evaluations: {a: 5}", "`kind` must be given"),
        ("- 1", "expected a mapping of keys"),
    ],
)
def test_specs_of_other_kinds_are_told_in_a_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_spec(path)
    assert "\n" not in str(caught.value)


def test_specs_in_utf_16_are_named(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes("evaluations: {}".encode("utf-16"))
    with pytest.raises(UserError, match=r"s\.yaml: expected text in UTF-8, got UTF-16"):
        load_spec(path)


@pytest.mark.parametrize(
    "settings",
    [
        "kind: masked, mask_fraction: .inf",
        "kind: masked, mask_fraction: .nan",
        "kind: masked, mask_fraction: 0",
        f"kind: masked, mask_fraction: {10**400}",
        "kind: caption, beams: [1000000000]",
        "kind: caption, beams: [0]",
        "kind: dense, task: a, window: [0, 32]",
        "kind: dense, task: a, window: [32, 1000000000]",
        "kind: retrieval, ks: [.inf]",
        "kind: retrieval, inputs: [image]",
        "kind: robustness, inputs: {png: image}, size: [.nan]",
        "kind: classification, limit: true",
        "kind: classification, train_share: .nan",
    ],
)
def test_settings_without_end_are_refused_when_a_spec_is_read(tmp_path: Path, settings: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"evaluations: {{a: {{data: x, {settings}}}}}\n")
    with pytest.raises(RecipeError, match=r"s\.yaml: a"):
        load_spec(path)
