"""The gate promotes on evidence alone."""

from __future__ import annotations

import types

import pytest

from agentkd.config import GateSettings
from agentkd.errors import PluginError
from agentkd.evaluate import (
    Contamination,
    Evidence,
    Leak,
    compare,
    gate,
    make_evaluation,
    refuse,
    without_tasks,
)
from agentkd.evaluate.statistics import wilson
from agentkd.hf import Anchors
from agentkd.hookspecs import hookimpl
from agentkd.plugins import PluginHost
from agentkd.schema import ArmResult, TaskResult, TransferCell


def arm(name: str, n_right: int, n: int) -> ArmResult:
    results = tuple(TaskResult(task_id=str(i), success=i < n_right) for i in range(n))
    return ArmResult(name=name, n=n, success=wilson(n_right, n), results=results)


def judged(n: int = 100, **right: int):
    arms = [arm(name.replace("_", " + "), count, n) for name, count in right.items()]
    return make_evaluation(suite="s", split="holdout", arms=arms, checkpoint="student@2-abc")


@pytest.fixture
def host() -> PluginHost:
    return PluginHost(auto=False)


def test_a_clearly_better_candidate_is_promoted_and_every_check_has_its_figures(host):
    verdict = gate(judged(base=10, base_memory=20, student=60), GateSettings(), "base", host.hooks)
    assert verdict.promote
    assert verdict.checkpoint == "student@2-abc"
    assert verdict.against == "base"
    assert verdict.flags == ()
    assert len(verdict.reasons) == 3
    assert "gain +0.500 [" in verdict.reasons[1]
    assert "50 won, 0 lost" in verdict.reasons[1]
    assert verdict.numbers["gain:base + memory"] == pytest.approx(0.4)
    assert verdict.numbers["p:base"] < 1e-9
    assert verdict.numbers["n"] == 100


def test_a_candidate_must_beat_every_rival(host):
    verdict = gate(judged(base=10, base_memory=60, student=60), GateSettings(), "base", host.hooks)
    assert not verdict.promote
    assert verdict.flags == ("not_better_than:base + memory",)
    assert "Not shown to be better than `base + memory`" in verdict.reasons[2]


def test_a_worse_candidate_is_never_promoted_however_significant(host):
    verdict = gate(judged(base=60, base_memory=60, student=10), GateSettings(margin=-1.0), "base", host.hooks)
    assert not verdict.promote


def test_a_gain_within_the_margin_is_not_enough(host):
    settings = GateSettings(margin=0.45)
    verdict = gate(judged(base=10, base_memory=10, student=60), settings, "base", host.hooks)
    assert set(verdict.flags) == {"not_better_than:base", "not_better_than:base + memory"}
    assert "not above 0.45" in verdict.reasons[1]


def test_a_clear_interval_without_significance_is_not_enough(host):
    evaluation = judged(n=30, base=0, base_memory=0, student=5)
    low = evaluation.paired[0].difference.low
    assert low > 0
    verdict = gate(evaluation, GateSettings(alpha=0.05), "base", host.hooks)
    assert not verdict.promote
    assert gate(evaluation, GateSettings(alpha=0.12), "base", host.hooks).promote


def test_too_few_tasks_are_no_evidence(host):
    verdict = gate(judged(n=19, base=0, base_memory=0, student=19), GateSettings(), "base", host.hooks)
    assert verdict.flags == ("min_tasks",)
    assert "19 tasks of `holdout` are no evidence" in verdict.reasons[0]


def test_what_serves_must_be_beaten_too(host):
    without = judged(base=10, base_memory=10, student=60)
    verdict = gate(without, GateSettings(), "student@1-old", host.hooks)
    assert verdict.flags == ("missing:serving",)
    equal = judged(base=10, base_memory=10, student=60, serving=60)
    assert gate(equal, GateSettings(), "student@1-old", host.hooks).flags == ("not_better_than:serving",)
    worse = judged(base=10, base_memory=10, student=60, serving=20)
    assert gate(worse, GateSettings(), "student@1-old", host.hooks).promote


def test_the_base_is_a_rival_while_it_serves_whatever_the_settings_say(host):
    settings = GateSettings(against=("base + memory",))
    verdict = gate(judged(base=60, base_memory=10, student=60), settings, "base", host.hooks)
    assert verdict.flags == ("not_better_than:base",)


def test_an_evaluation_without_the_candidate_promotes_nothing(host):
    verdict = gate(judged(base=10, base_memory=20), GateSettings(), "base", host.hooks)
    assert verdict.flags == ("missing:base", "missing:base + memory")


def plugin(answer):
    module = types.ModuleType("careful")

    @hookimpl
    def judge_checkpoint(checkpoint, evaluation):
        assert checkpoint == evaluation.checkpoint
        return answer(evaluation)

    module.judge_checkpoint = judge_checkpoint
    return module


def test_a_plugin_may_veto_and_is_named(host):
    host.add(plugin(lambda e: e.arm("student").success.value > 0.9), "careful")
    verdict = gate(judged(base=10, base_memory=20, student=60), GateSettings(), "base", host.hooks)
    assert verdict.flags == ("veto:careful",)
    assert "`careful` vetoed `student@2-abc`" in verdict.reasons[-1]


def test_a_plugin_that_agrees_never_overrules_a_failed_check(host):
    host.add(plugin(lambda _: True), "careful")
    verdict = gate(judged(base=60, base_memory=20, student=60), GateSettings(), "base", host.hooks)
    assert not verdict.promote


def test_a_plugin_that_breaks_is_named(host):
    host.add(plugin(lambda _: 1 / 0), "careful")
    with pytest.raises(PluginError, match="careful"):
        gate(judged(base=10, base_memory=20, student=60), GateSettings(), "base", host.hooks)


def test_what_could_not_be_judged_is_refused_with_the_reason():
    verdict = refuse("student@1", "base", "there is no held-out split")
    assert not verdict.promote
    assert verdict.flags == ("unjudged",)
    assert verdict.reasons == ("Not promoted: there is no held-out split.",)


GOOD = {"base": 10, "base_memory": 20, "student": 60}


@pytest.mark.parametrize(
    ("evidence", "flag"),
    [
        ({"contamination": Contamination(n_tasks=100, n_rows=9, leaks=(Leak("1", "r", 1.0, True),))}, ""),
        (
            {
                "contamination": Contamination(
                    n_tasks=100, n_rows=9, leaks=tuple(Leak(str(i), "r", 0.8, False) for i in range(30))
                )
            },
            "contaminated",
        ),
        ({"anchors": Anchors(base=2.0, student=2.01, kl=0.01, n_tokens=500)}, ""),
        ({"anchors": Anchors(base=2.0, student=2.5, kl=0.01, n_tokens=500)}, "anchors"),
        ({"anchors": Anchors(base=2.0, student=2.0, kl=9.0, n_tokens=500)}, "far_from_base"),
        ({"dev_losses": (0.9, 0.5, 0.51)}, ""),
        ({"dev_losses": (0.9, 0.5, 0.8)}, "overtrained"),
        ({"earlier": (judged(base=40, student=45),)}, ""),
        ({"earlier": (judged(base=60, student=20),)}, "forgot:s/holdout"),
    ],
)
def test_a_good_gain_is_not_enough_where_something_else_was_lost(host, evidence, flag):
    verdict = gate(judged(**GOOD), GateSettings(), "base", host.hooks, Evidence(**evidence))
    assert verdict.flags == ((flag,) if flag else ())
    assert verdict.promote == (not flag)


def test_patience_does_not_win(host):
    evaluation = judged(n=60, base=0, base_memory=0, student=7)
    assert gate(evaluation, GateSettings(), "base", host.hooks, Evidence(look=1)).promote
    late = gate(evaluation, GateSettings(), "base", host.hooks, Evidence(look=9))
    assert not late.promote
    assert "look 9" in late.reasons[1]
    assert gate(evaluation, GateSettings(spend_alpha=False), "base", host.hooks, Evidence(look=9)).promote


def test_a_late_look_does_not_forgive_what_was_forgotten(host):
    evidence = Evidence(look=9, earlier=(judged(base=30, student=20),))
    assert "forgot:s/holdout" in gate(judged(**GOOD), GateSettings(), "base", host.hooks, evidence).flags


def test_more_candidates_lower_the_level_of_being_better_and_not_that_of_having_forgotten(host):
    before, after = judged(student=30), judged(base=30, student=23)
    pair = compare(arm("student", 23, 100), arm("cycle-1", 30, 100))
    assert 0.05 / 4 < pair.p_value < 0.05
    cell = TransferCell(
        cycle=1, suite="s", split="holdout", success=before.arms[0].success, paired=pair, was_promoted=True
    )
    evidence = Evidence(n_candidates=4, earlier=(after,), transfer=(cell,))
    verdict = gate(judged(**GOOD), GateSettings(spend_alpha=False), "base", host.hooks, evidence)
    assert verdict.flags == ("forgot:s/holdout", "forgot:cycle-1")
    assert verdict.numbers["alpha"] == 0.05 / 4


def test_tasks_too_short_to_look_for_are_told(host):
    evidence = Evidence(contamination=Contamination(n_tasks=100, n_rows=9, n_short=40))
    reasons = gate(judged(**GOOD), GateSettings(), "base", host.hooks, evidence).reasons
    assert any("40 are too short to tell" in reason for reason in reasons)


def test_a_partial_score_that_is_gone_altogether_has_fallen(host):
    part = {"valid_call": wilson(100, 100)}
    results = tuple(TaskResult(task_id=str(i), success=i < 10, parts={"valid_call": 1.0}) for i in range(100))
    base = ArmResult(name="base", n=100, success=wilson(10, 100), results=results, parts=part)
    evaluation = make_evaluation(
        suite="s", split="holdout", arms=[base, arm("base + memory", 20, 100), arm("student", 60, 100)],
        checkpoint="student@2-abc",
    )  # fmt: skip
    assert gate(evaluation, GateSettings(), "base", host.hooks).flags == ("worse_part:valid_call",)


def test_a_student_that_lives_off_its_memories_is_refused(host):
    verdict = gate(judged(**GOOD, student_memory=80), GateSettings(), "base", host.hooks)
    assert verdict.flags == ("needs_memory",)
    assert gate(judged(**GOOD, student_memory=64), GateSettings(), "base", host.hooks).promote


def test_a_partial_score_may_not_fall(host):
    def with_part(name: str, n_right: int, part: float) -> ArmResult:
        results = tuple(
            TaskResult(task_id=str(i), success=i < n_right, parts={"valid_call": part if i % 4 else 1.0})
            for i in range(100)
        )
        share = wilson(sum(r.parts["valid_call"] for r in results), 100)
        return ArmResult(
            name=name, n=100, success=wilson(n_right, 100), results=results, parts={"valid_call": share}
        )

    for part, flags in ((1.0, ()), (0.5, ("worse_part:valid_call",))):
        arms = [
            with_part("base", 10, 1.0),
            with_part("base + memory", 20, 1.0),
            with_part("student", 60, part),
        ]
        evaluation = make_evaluation(suite="s", split="holdout", arms=arms, checkpoint="student@2-abc")
        assert gate(evaluation, GateSettings(), "base", host.hooks).flags == flags


def test_figures_are_taken_again_without_contaminated_tasks():
    evaluation = judged(base=10, base_memory=20, student=60)
    clean = without_tasks(evaluation, {str(i) for i in range(50)})
    assert clean.n == 50
    assert clean.arm("student").success.value == pytest.approx(0.2)
    assert {pair.n for pair in clean.paired} == {50}
    assert without_tasks(evaluation, {"nowhere"}) is evaluation
    assert without_tasks(evaluation, {str(i) for i in range(100)}).n == 0
