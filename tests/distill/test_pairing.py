from __future__ import annotations

import json

from agentkd.config import DistillSettings
from agentkd.distill import ContrastSettings, build_contrast, distill_report, hard_pairs, soft_pairs
from agentkd.embedders.hashing import HashingEmbedder


def ids(pairs):
    return [tuple(t.id for t in pair) for pair in pairs]


def runs_of(make):
    return [
        make.trajectory("a-done", task="a", prompt="book a table in Oslo"),
        make.trajectory("a-failed", task="a", prompt="book a table in Oslo", success=False),
        make.trajectory("b-failed", task="b", prompt="book a table in Rome", success=False),
        make.trajectory("c-done", task="c", prompt="translate this letter into Latin"),
        make.trajectory("d-failed", task="d", prompt="book a table in Oslo", success=False, suite="other"),
    ]


def test_hard_pairs_are_two_attempts_at_one_task(make):
    assert ids(hard_pairs(runs_of(make))) == [("a-done", "a-failed")]


def test_soft_pairs_give_a_lone_side_the_nearest_other_one_of_its_suite(make):
    pairs = soft_pairs(runs_of(make), HashingEmbedder(), 0.5)
    assert ids(pairs) == [("a-done", "b-failed")]  # c is too far from anything, d has no success in its suite


def test_a_low_bar_pairs_more_and_each_pair_once(make):
    pairs = ids(soft_pairs(runs_of(make), HashingEmbedder(), -1.0))
    assert ("a-done", "b-failed") in pairs
    assert any(first == "c-done" for first, _ in pairs)
    assert len(set(pairs)) == len(pairs)


def test_the_setting_decides_and_the_report_counts_both_kinds(make):
    model = make.answers(lambda n, m: json.dumps({"lessons": []}))
    for pairing, counts in (
        ("hard", {"contrast: hard pairs": 1, "contrast: soft pairs": 0}),
        ("soft", {"contrast: hard pairs": 1, "contrast: soft pairs": 1}),
    ):
        distiller = build_contrast(ContrastSettings(pairing=pairing, pair_above=0.5), None)
        report = distill_report(runs_of(make), [], [distiller], make.kit(model), DistillSettings())
        assert report.counts == counts
    prompts = [messages[-1].content for messages, _ in model.asked]
    soft = next(p for p in prompts if "Rome" in p)
    assert soft.index("in Oslo") < soft.index("in Rome")  # each side stands with its own request
