"""Near duplicates among many: the fast way finds what comparing all pairs finds."""

from __future__ import annotations

import numpy as np
import pytest

from agentkd.compiler.neighbour import like_pairs, n_codes
from agentkd.compiler.split import Forest


def clusters(vectors, threshold, limit):
    forest = Forest(len(vectors))
    pairs = 0
    for one, other in like_pairs(vectors, threshold, forest.is_joined, limit):
        assert vectors[one].astype(float) @ vectors[other].astype(float) > threshold - 1e-3
        forest.join(one, other)
        pairs += 1
    return [forest.root(i) for i in range(len(vectors))], pairs


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("threshold", [0.9, 0.95, 0.99])
def test_codes_find_the_clusters_that_all_pairs_give(threshold):
    chance = np.random.default_rng(0)
    base = chance.standard_normal((1200, 64)) + 0.4 * chance.standard_normal(64)
    noise = chance.standard_normal((600, 64)) * chance.uniform(0.05, 0.3, (600, 1))
    vectors = unit(np.concatenate([base, base[chance.integers(0, 1200, 600)] * (1 + 0 * noise) + noise]))
    every, _ = clusters(vectors, threshold, 10_000)
    coded, _ = clusters(vectors, threshold, 0)
    assert len(set(every)) < 1800
    assert sum(a != b for a, b in zip(every, coded, strict=True)) <= 2


def test_a_crowd_of_near_duplicates_costs_about_one_pair_each():
    chance = np.random.default_rng(0)
    vectors = unit(np.ones((3000, 32)) + 0.02 * chance.standard_normal((3000, 32)))
    roots, pairs = clusters(vectors, 0.95, 0)
    assert set(roots) == {0}
    assert pairs < 3000 * (n_codes(0.95) + 1)
