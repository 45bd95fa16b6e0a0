from pathlib import Path

import pytest

from unified.core.paths import data_folder, find


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that holds a folder and a file with names of the project."""
    (tmp_path / "text").mkdir()
    (tmp_path / "quickstart").write_text("not a recipe")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_bare_name_is_the_projects_whatever_the_current_folder_holds(elsewhere: Path) -> None:
    assert find("tokenizers", "text") == data_folder("tokenizers") / "text"
    assert find("recipes", "quickstart", ".yaml") == data_folder("recipes") / "quickstart.yaml"


def test_what_is_written_as_a_path_is_the_path(elsewhere: Path) -> None:
    assert find("tokenizers", "./text").resolve() == elsewhere.resolve() / "text"
    assert find("tokenizers", str(elsewhere / "text")) == elsewhere / "text"
    (elsewhere / "mine").mkdir()
    assert find("tokenizers", "mine") == Path("mine"), "the project has no such name"


def test_an_unknown_name_hints_at_the_nearest(elsewhere: Path) -> None:
    with pytest.raises(FileNotFoundError, match="quickstart"):
        find("recipes", "quickstrt", ".yaml")
