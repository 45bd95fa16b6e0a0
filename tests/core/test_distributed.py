"""How rows are split over ranks."""

import pytest

from unified.core.distributed import rows_of_rank


@pytest.mark.parametrize(("count", "ranks"), [(4, 2), (5, 2), (7, 4), (21841, 64), (3, 3)])
def test_parts_are_whole_and_nearly_equal(count: int, ranks: int) -> None:
    parts = [rows_of_rank(count, number, ranks) for number in range(ranks)]
    assert [row for part in parts for row in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert max(map(len, parts)) == -(-count // ranks)


def test_too_few_rows_are_not_split() -> None:
    assert [len(rows_of_rank(3, number, 4)) for number in range(4)] == [3] * 4
