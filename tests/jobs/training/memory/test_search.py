from __future__ import annotations

from math import log2

from hypothesis import given
from hypothesis import strategies as st

from jobs.training.memory.search import (
    TrainingSize,
    divisors,
    halves,
    largest_fitting,
    largest_training_size,
    least,
)

SIZES = st.one_of(st.builds(divisors, st.integers(1, 4096), st.integers(1, 512)), st.integers(1, 2**16).map(halves))


@given(SIZES, st.integers(0, 2**17))
def test_the_largest_size_that_fits_is_found_in_few_tries_the_largest_first(sizes: list[int], room: int) -> None:
    tried: list[int] = []
    found = largest_fitting(sizes, lambda rows: bool(tried.append(rows) or rows <= room))
    assert found == max((size for size in sizes if size <= room), default=None)
    assert tried[0] == max(sizes)
    assert found is None or found in tried
    assert len(tried) == len(set(tried)) <= 2 + log2(len(sizes))


@given(st.integers(1, 4096), st.integers(1, 512))
def test_a_batch_on_the_device_divides_the_share_of_a_worker(part: int, most: int) -> None:
    sizes = divisors(part, most)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    assert all(part % size == 0 and size <= most for size in sizes)


ROOM = st.tuples(st.integers(0, 100), st.integers(0, 100)).map(sorted)  # with activations kept, and computed again


@given(SIZES, ROOM, st.booleans(), st.dictionaries(st.booleans(), st.integers(1, 100)))
def test_activations_are_computed_again_if_not_one_row_fits_otherwise(
    sizes: list[int], room: list[int], can: bool, ran_out: dict[bool, int]
) -> None:
    tried: list[TrainingSize] = []

    def fits(recompute: bool, rows: int) -> bool:
        tried.append(TrainingSize(rows, recompute))
        return rows <= room[recompute]

    ways = (False, True)[: 1 + can]
    found = largest_training_size(sizes, ways, fits, ran_out.get)
    assert found is None or found == tried[-1] or found in tried
    usable = {way: [size for size in sizes if size < ran_out.get(way, 2**17)] for way in ways}
    usable[ways[-1]] = usable[ways[-1]] or [1]  # a note alone makes no training impossible
    best = {way: max((size for size in usable[way] if size <= room[way]), default=0) for way in ways}
    expected = next((TrainingSize(best[way], way) for way in ways if best[way]), None)
    assert found == expected
    assert all(one.rows in usable[one.recompute] for one in tried)


@given(st.lists(st.builds(TrainingSize, st.integers(1, 64), st.booleans()), min_size=1))
def test_workers_agree_on_what_fits_each_of_them(found: list[TrainingSize]) -> None:
    agreed = least(found)
    assert all(agreed.rows <= one.rows and agreed.recompute >= one.recompute for one in found)
    assert agreed.rows in [one.rows for one in found]
