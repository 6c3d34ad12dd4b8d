"""Packing keeps every row, shares what is alike, and repeats itself exactly."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agentkd.train.packing import MAX_PAIRS, make_packs, plan_steps
from agentkd.train.rows import View

rows = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=9), min_size=1, max_size=12)


def views_of(sequences: list[list[int]]) -> list[View]:
    return [View(tuple(ids), tuple(range(1, len(ids))), (1.0,) * (len(ids) - 1)) for ids in sequences]


@given(rows, st.integers(2, 40))
def test_a_pack_holds_every_row_whole_and_predicts_its_labels(sequences: list[list[int]], limit: int) -> None:
    views = views_of(sequences)
    found = Counter()
    labels = {}
    for pack in make_packs(views, limit):
        found.update(tuple(pack.tokens[t] for t in path) for path in pack.paths)
        assert all([pack.positions[t] for t in path] == list(range(len(path))) for path in pack.paths)
        assert len(pack.tokens) <= max(limit, *(len(path) for path in pack.paths))
        labels |= dict(zip(pack.labels, pack.targets, strict=True))
        for source, target, (number, place) in zip(pack.sources, pack.targets, pack.labels, strict=True):
            assert views[number].ids[place : place + 2] == (pack.tokens[source], target)
    assert found == Counter(view.ids[:-1] for view in views)
    assert len(labels) == sum(len(view.labels) for view in views)


def test_a_common_head_is_computed_once() -> None:
    views = views_of([[1, 2, 3, 4, 5], [1, 2, 3, 7, 8], [1, 2, 9, 9, 9]])
    (pack,) = make_packs(views, 100)
    assert len(pack.tokens) == 4 + 1 + 2  # 1 2 3 4, then 7, then 9 9


def test_groups_do_not_pad_short_rows_to_long_ones() -> None:
    views = views_of([[1] * 40, [2] * 39, [3] * 8])
    (pack,) = make_packs(views, 1000)
    assert [[len(path) for path in group] for group in pack.groups()] == [[39, 38], [7]]


def test_the_memory_of_attention_bounds_a_pack() -> None:
    views = views_of([[number] * 200 + [0] for number in range(120)])
    packs = list(make_packs(views, 10**6))
    assert len(packs) == 3
    assert all(sum(len(path) ** 2 for path in pack.paths) <= MAX_PAIRS for pack in packs)
    (pack,) = make_packs(views, 10**6, max_pairs=10**9)
    assert len(pack.tokens) == 120 * 200


def test_attention_over_a_shared_prefix_counts_once() -> None:
    views = views_of([[1] * 1000 + [number, 2] for number in range(120)])
    (pack,) = make_packs(views, 10**6)
    assert len(pack.tokens) == 1000 + 120


def test_the_turns_of_a_long_trajectory_share_their_history() -> None:
    ids = list(range(1500))
    (pack,) = make_packs(views_of([ids[:n] for n in (300, 600, 900, 1200)]), 3072)
    assert len(pack.tokens) == 1199


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=40),
    st.integers(1, 3),
    st.integers(20, 200),
    st.integers(0, 5),
)
def test_each_epoch_visits_each_row_once(sizes: list[int], epochs: int, per_step: int, seed: int) -> None:
    steps = plan_steps(sizes, epochs=epochs, tokens_per_step=per_step, seed=seed)
    visits = [row for step in steps for row in step]
    for epoch in range(epochs):
        part = visits[epoch * len(sizes) : (epoch + 1) * len(sizes)]
        assert sorted(part) == list(range(len(sizes)))
    assert steps == plan_steps(sizes, epochs=epochs, tokens_per_step=per_step, seed=seed)


def test_steps_are_of_equal_size_and_epochs_of_another_order() -> None:
    sizes = [10] * 100
    steps = plan_steps(sizes, epochs=2, tokens_per_step=95, seed=0)
    assert {len(step) for step in steps} <= {9, 10}
    visits = [row for step in steps for row in step]
    assert visits[:100] != visits[100:]
    assert steps != plan_steps(sizes, epochs=2, tokens_per_step=95, seed=1)


def test_half_an_epoch_takes_half_of_the_rows() -> None:
    steps = plan_steps([10] * 8, epochs=0.5, tokens_per_step=10, seed=0)
    assert sum(len(step) for step in steps) == 4
