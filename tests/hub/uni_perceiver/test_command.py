"""`unified convert uni-perceiver`, and the vocabularies that it takes."""

from pathlib import Path

import pytest
import tokenizers
import torch

from tests import official_files as files
from unified.cli.main import call
from unified.core.errors import RecipeError, UserError
from unified.hub.load import load
from unified.hub.uni_perceiver.tokenizer import load_tokenizer
from unified.modalities.text.tokenizer import END, SPE, text_tokens

WORDS = files.MERGED_WORDS


def checkpoint(folder: Path) -> Path:
    state = files.fill(files.keys(64, 1, words=WORDS), 1.0, "words")
    torch.save({"model": state}, folder / "in.pth")
    return folder / "in.pth"


def run(*arguments: object) -> None:
    call(["convert", "uni-perceiver", *map(str, arguments)], "")


def test_there_and_back_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = checkpoint(tmp_path), tmp_path / "out"
    run(source, out, "--heads", 4, "--tokenizer", files.merges_file(tmp_path))
    text = capsys.readouterr().out
    for words in ("published", "1 layers, width 64, 4 heads", "tokenizer given", str(out / "official.json")):
        assert words in text
    run(out, tmp_path / "back.pth", "--reverse")
    assert "49 tensors" not in capsys.readouterr().out
    before, after = (torch.load(file, weights_only=True)["model"] for file in (source, tmp_path / "back.pth"))
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    with pytest.raises(RecipeError, match="--heads: not with --reverse"):
        run(out, tmp_path / "other.pth", "--reverse", "--heads", 4)


def test_a_converted_model_with_its_vocabulary_reads_and_writes_words(tmp_path: Path) -> None:
    run(checkpoint(tmp_path), tmp_path / "out", "--heads", 4, "--tokenizer", files.merges_file(tmp_path))
    model, processor = load(tmp_path / "out")
    features = processor(text=["The  cat", "a dog &"])
    ids = processor.tokenizer.get_vocab()
    expected = [ids[token] for token in ("the</w>", "cat</w>", END, END)]
    assert features["input_ids"][0].tolist() == expected
    pixels = processor(images=torch.zeros(3, 224, 224, dtype=torch.uint8))
    names = processor(text=["the cat", "dog"])
    tokens = text_tokens(names["input_ids"], names["attention_mask"])
    torch.testing.assert_close(model.classify(pixels, ["the cat", "dog"]), model.classify(pixels, tokens))
    assert processor.tokenizers["text"].text(features["input_ids"][0].tolist()) == "the cat"
    assert isinstance(model.caption(pixels, max_length=3)[0], str)


def test_ids_are_those_of_clip(tmp_path: Path) -> None:
    """The first ones are the printable bytes from !, then the same closing a word, then the merges."""
    found = load_tokenizer(files.merges_file(tmp_path, packed=False), WORDS, 50)
    assert found.size == WORDS
    token = found.tokenizer.token_to_id
    assert [token(word) for word in ("!", "a", "~", "¡", "a</w>", "ca", "the</w>")] == [0, 64, 93, 94, 320, 512, 517]
    special = ("<|startoftext|>", END, "<|mask|>", "<|gen|>", SPE)
    assert [token(word) for word in special] == list(range(WORDS - 5, WORDS))
    assert found.prepare("CAT!") == [token("cat</w>"), token("!</w>"), found.end]
    assert found.text(found.prepare("é 日")) == "é 日"
    assert SPE not in [found.tokenizer.id_to_token(i) for i in found.prepare(f"a {SPE}")]
    assert found.cloze(f"a {SPE}.")[-3:] == [found.spe, token(".</w>"), found.end]


def test_a_tokenizer_of_clip_gets_the_further_special_tokens(tmp_path: Path) -> None:
    """Hugging Face's files of CLIP end with the two special tokens that OpenAI's model knows."""
    whole = load_tokenizer(files.merges_file(tmp_path), WORDS, 50).tokenizer
    words = {word: number for word, number in whole.get_vocab(with_added_tokens=False).items() if number < WORDS - 3}
    merges = [tuple(line.split()) for line in files.MERGES]
    clip = tokenizers.Tokenizer(tokenizers.models.BPE(words, merges, end_of_word_suffix="</w>"))
    clip.normalizer, clip.pre_tokenizer, clip.decoder = whole.normalizer, whole.pre_tokenizer, whole.decoder
    clip.add_special_tokens(["<|startoftext|>", END])
    assert clip.get_vocab_size() == WORDS - 3
    clip.save(str(tmp_path / "tokenizer.json"))
    found = load_tokenizer(tmp_path, WORDS, 50)
    assert (found.size, found.spe, found.end) == (WORDS, WORDS - 1, WORDS - 4)
    assert found.prepare("the cat dog") == load_tokenizer(files.merges_file(tmp_path), WORDS, 50).prepare("the cat dog")


@pytest.mark.parametrize(("name", "content", "message"), [
    ("none.txt", None, "no such file; give a folder"),
    ("few.txt", "title\na b\n", "1 merges of two tokens; the checkpoint needs 6"),
    ("bad.txt.gz", "no gzip", "not a file of merges"),
    ("bad.json", "{}", r"not a tokenizer\.json"),
])  # fmt: skip
def test_other_vocabularies_are_refused(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        run(checkpoint(tmp_path), tmp_path / "out", "--heads", 4, "--tokenizer", tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_the_project_s_own_vocabulary_is_another_one(tmp_path: Path) -> None:
    own = Path(__file__).parents[3] / "tokenizers" / "text"
    with pytest.raises(UserError, match="this is another vocabulary"):
        run(checkpoint(tmp_path), tmp_path / "out", "--heads", 4, "--tokenizer", own)
