import official
import pytest
import torch

from unified.modalities.sequence import Attributes, layout, visibility

CPU = torch.device("cpu")
IMAGE, WORDS = Attributes("image"), Attributes("text", causal=True)
QUERY = Attributes("text", "query", causal=True)


def test_segments_tile_the_sequence_and_share_rows() -> None:
    whole = layout([(IMAGE, 3), (WORDS, 2), (IMAGE, 1)])
    assert [(s.start, s.stop, s.row) for s in whole.segments] == [(0, 3, 0), (3, 5, 1), (5, 6, 0)]
    assert len(whole) == 6
    assert whole.find("text").start == 3
    with pytest.raises(KeyError, match="query"):
        whole.find("text", "query")


def test_everything_is_visible_where_nothing_is_causal() -> None:
    assert visibility(layout([(IMAGE, 3), (Attributes("text"), 2)]), CPU) is None


@pytest.mark.parametrize(("prefix", "length"), [(1, 1), (3, 4), (5, 2)])
def test_captioning_mask_is_the_published_table(prefix: int, length: int) -> None:
    found = visibility(layout([(IMAGE, prefix), (WORDS, length), (QUERY, length)]), CPU)
    assert found is not None
    assert torch.equal(~found, official.caption_blocked(prefix, length))


def test_plain_causal_text_sees_itself_and_what_came_before() -> None:
    found = visibility(layout([(WORDS, 4)]), CPU)
    assert found is not None
    assert torch.equal(found, torch.ones(4, 4, dtype=torch.bool).tril())
