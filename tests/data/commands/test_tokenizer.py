"""`unified tokenizer train` reads text files and shards, and its folder is a tokenizer."""

import io
import logging
import tarfile
from pathlib import Path

import pytest

from unified.core.errors import DataError
from unified.data.commands.tokenizer import corpus, train_command
from unified.modalities.text.tokenizer import TextTokenizer


def shard(path: Path, column: str, *texts: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, text in enumerate(texts):
            member = tarfile.TarInfo(f"{number:04d}.{column}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_corpus_is_lines_of_files_and_texts_of_shards(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n", encoding="utf-8")
    shard(tmp_path / "s.tar", "txt", "drei", "vier\nfünf")
    found = list(corpus([tmp_path / "a.txt", tmp_path / "s.tar"]))
    assert [text.strip() for text in found] == ["one", "two", "drei", "vier\nfünf"]


def test_command_writes_a_tokenizer_and_measures_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text("small letter\n" * 20, encoding="utf-8")
    with caplog.at_level(logging.INFO, "unified"):
        train_command([tmp_path / "a.txt"], tmp_path / "out", vocabulary_size=300)
    tokenizer = TextTokenizer.load(str(tmp_path / "out"), 16)
    assert tokenizer.text(tokenizer.prepare("Small Letter")) == "small letter"
    assert len(tokenizer.prepare("Small Letter")) == 3
    assert "2.00 tokens a text, 1.00 a word" in caplog.text


def test_mistakes_name_the_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.txt: no such file"):
        list(corpus([tmp_path / "nothing.txt"]))
    (tmp_path / "latin.txt").write_bytes(b"fine\nn\xe9\n")
    with pytest.raises(DataError, match=r"latin\.txt:2: not UTF-8"):
        list(corpus([tmp_path / "latin.txt"]))
    with pytest.raises(DataError, match=r"no column 'txt'.*hold cls"):
        list(corpus([shard(tmp_path / "s.tar", "cls", "1")]))
