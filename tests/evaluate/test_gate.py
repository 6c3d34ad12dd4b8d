"""The gate promotes on evidence alone."""

from __future__ import annotations

import types

import pytest

from agentkd.config import GateSettings
from agentkd.errors import PluginError
from agentkd.evaluate import gate, make_evaluation, refuse
from agentkd.evaluate.statistics import wilson
from agentkd.hookspecs import hookimpl
from agentkd.plugins import PluginHost
from agentkd.schema import ArmResult, TaskResult


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
    assert gate(evaluation, GateSettings(alpha=0.07), "base", host.hooks).promote


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
