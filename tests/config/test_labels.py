from pathlib import Path

import pytest

from unified.config.labels import Labels, load_labels
from unified.core.errors import RecipeError


def test_yaml_labels_with_templates(tmp_path: Path) -> None:
    path = tmp_path / "pets.yaml"
    path.write_text('names: [cat, dog]\ntemplates: ["{}", "a photo of a {c}"]\n')
    labels = load_labels(path)
    assert labels.names == ("cat", "dog")
    assert labels.prompts("dog") == ["dog", "a photo of a dog"]
    assert [labels.number(name) for name in ("cat", "dog", "bird")] == [0, 1, None]


def test_text_file_and_clip_benchmark_folder(tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("red apple\ngreen pear\n\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\n")
    assert load_labels(tmp_path) == Labels(("red apple", "green pear"), ("a photo of {}.",))
    assert load_labels(tmp_path / "classnames.txt") == Labels(("red apple", "green pear"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: []", "label set is empty"),
        ("names: [cat, ' ']", "name 1 is blank"),
        ('names: ["cat\\ud83d"]', "wrong.yaml.*(lone surrogate|invalid Unicode)"),
        ("names: [cat]\ntemplates: ['a photo']", "must hold one {}"),
        ("names: [cat]\ntemplates: []", "list is empty"),
        ("name: [cat]", "did you mean 'names'"),
        ("names: [cat]\nformat: 2", "expected a format up to 1, got 2"),
        ("names: [yes, dog]", "expected str"),
    ],
)
def test_wrong_labels_are_clear_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_labels(path)
    assert "wrong.yaml" in str(caught.value)


def test_empty_text_file_and_missing_files_are_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(RecipeError, match="label set is empty"):
        load_labels(tmp_path / "empty.txt")
    with pytest.raises(RecipeError, match=r"no classnames\.txt"):
        load_labels(tmp_path)
    with pytest.raises(RecipeError, match="neither a path nor a name"):
        load_labels("labels/there_is_no_such_set")
