from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentkd.compiler import choose_dev, group_tasks
from agentkd.compiler.split import task_key
from agentkd.schema import Task


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 30), max_size=20), st.floats(0.0, 0.9))
def test_dev_never_holds_more_than_its_share(groups, share):
    chosen = choose_dev(groups, share)
    assert chosen <= groups.keys()
    assert sum(groups[name] for name in chosen) <= round(share * sum(groups.values()))


@given(st.lists(st.integers(0, 7), min_size=1, max_size=30), st.randoms())
def test_groups_are_chains_of_likeness_and_do_not_depend_on_order(places, chance):
    # Task i points in direction `place`; neighbours are 20 degrees apart, all others further.
    angles = {f"w{p}": np.radians(20 * p) for p in range(8)}
    tasks = [Task(id=f"t{i}", suite="s", prompt=f"w{p}") for i, p in enumerate(places)]

    def embed(texts):
        return np.array([[np.cos(angles[t]), np.sin(angles[t])] for t in texts], dtype=np.float32)

    groups = group_tasks(tasks, embed, 0.9)
    for a, p in zip(tasks, places, strict=True):
        for b, q in zip(tasks, places, strict=True):
            low, high = sorted((p, q))
            is_chain = all(place in places for place in range(low, high + 1))
            assert (groups[task_key(a)] == groups[task_key(b)]) == is_chain
    shuffled = list(tasks)
    chance.shuffle(shuffled)
    assert group_tasks(shuffled, embed, 0.9) == groups
