from __future__ import annotations

import pytest

from agentkd.config import DistillSettings
from agentkd.distill import (
    CaseDistiller,
    CorrectionDistiller,
    Notice,
    Rejection,
    ToolNotesDistiller,
    ToolNotesSettings,
    candidate,
    distill_all,
    distill_report,
)
from agentkd.errors import PluginError
from agentkd.schema import Scope
from agentkd.testing.checks import check_distiller


class Giving:
    name = "giving"

    def __init__(self, make_memories):
        self._make = make_memories

    def distill(self, trajectories, corrections, kit):
        return self._make(trajectories, corrections)


def lesson(runs, content, confidence=0.5):
    return candidate(
        "insight", "whenever", content, trajectories=runs, scope=Scope(), origin="x", confidence=confidence
    )


def test_equal_lessons_are_one_memory_that_rests_on_both_runs(make):
    one = make.trajectory("a", calls=(make.call("book"),))
    two = make.trajectory("b", calls=(make.call("book"),))
    (memory,) = distill_all([one, two], [], [CaseDistiller()], make.kit(), DistillSettings())
    assert memory.evidence.trajectories == ("a", "b")
    assert memory.support == 2


def test_two_distillers_of_one_correction_agree_on_one_memory(make):
    run = make.trajectory(success=False)
    right = make.correction(run, accepted=(make.call("book"),))
    distillers = [CaseDistiller(), CorrectionDistiller()]
    report = distill_report([run], [right], distillers, make.kit(), DistillSettings())
    assert len(report.memories) == 1
    assert report.memories[0].support == 1
    assert report.by_distiller == {"case": 1, "correction": 1}


def test_the_least_confident_candidates_of_a_run_are_left_out(make):
    run = make.trajectory()
    giving = Giving(lambda runs, _: [lesson(runs, f"lesson {i}", i / 10) for i in range(5)])
    kit = make.kit()
    report = distill_report([run], [], [giving], kit, DistillSettings(max_memories_per_trajectory=2))
    assert [m.content for m in report.memories] == ["lesson 3", "lesson 4"]
    assert report.n_left_out == 3
    assert "3 beyond the cap" in kit.progress.lines[-1]


def test_cases_leave_the_lessons_of_a_model_their_places(make):
    run = make.trajectory()

    def give(runs, _):
        cases = [
            candidate("case", f"state {i}", "Call: book", trajectories=runs, scope=Scope(), origin="case",
                      confidence=0.9)
            for i in range(4)
        ]  # fmt: skip
        return [*cases, lesson(runs, "look twice", 0.8)]

    report = distill_report([run], [], [Giving(give)], make.kit(), DistillSettings())
    assert [m.content for m in report.memories if m.kind == "insight"] == ["look twice"]
    assert len([m for m in report.memories if m.kind == "case"]) == 3


def test_held_out_tasks_and_their_corrections_are_never_read(make):
    seen = []

    def look(runs, corrections):
        seen.extend([*runs, *corrections])
        return []

    train, held = make.trajectory("a"), make.trajectory("b", split="holdout-unseen")
    report = distill_report(
        [train, held], [make.correction(held)], [Giving(look)], make.kit(), DistillSettings()
    )
    assert seen == [train]
    assert report.n_held_out == 1


def test_a_distiller_that_raises_or_yields_rubbish_is_named(make):
    def fail(runs, corrections):
        raise ZeroDivisionError("oops")

    for broken in (Giving(fail), Giving(lambda runs, corrections: ["text"])):
        with pytest.raises(PluginError, match="giving"):
            distill_all([make.trajectory()], [], [broken], make.kit(), DistillSettings())


def test_the_built_in_distillers_that_need_no_model_keep_the_promise(make):
    check_distiller(CaseDistiller())
    check_distiller(CorrectionDistiller())
    check_distiller(ToolNotesDistiller(ToolNotesSettings(min_calls=1)), min_memories=0)


def test_what_was_refused_and_remarked_is_counted_in_the_report(make):
    class Judging:
        name = "judging"

        def attempt(self, runs, corrections, kit):
            ids = tuple(run.id for run in runs)
            for reason in ("quote-not-found", "quote-not-found", "claim-failed"):
                yield Rejection(distiller="judging", trajectories=ids, lesson="x", reason=reason)
            yield Notice(distiller="judging", text="nothing was tried", counts={"pairs": 2})
            yield Notice(distiller="judging", text="nothing was tried", counts={"pairs": 1})

        def distill(self, runs, corrections, kit):
            raise AssertionError("a distiller that can hand over everything is asked for everything")

    kit = make.kit()
    report = distill_report([make.trajectory()], [], [Judging()], kit, DistillSettings())
    assert report.rejected_by_reason == {"claim-failed": 1, "quote-not-found": 2}
    assert report.counts == {"judging: pairs": 3}
    assert report.notices == ("judging: nothing was tried",)
    assert "3 lessons refused (1 claim-failed, 2 quote-not-found)" in report.summary
    assert "judging: pairs: 3" in report.summary
    assert sum("nothing was tried" in line for line in kit.progress.lines) == 1


def test_what_one_user_prefers_is_theirs_and_other_lessons_are_everybodys(make):
    runs = [
        make.trajectory(name).model_copy(update={"scope": Scope(tenant=tenant, user=user)})
        for name, tenant, user in (("a", "", "ann"), ("b", "", "bob"), ("c", "acme", "ann"))
    ]

    def give(found, corrections):
        for kind in ("preference", "parameter", "insight"):
            for rests_on in [[run] for run in found] + [found]:
                text = "of one" if rests_on != found or len(found) == 1 else "of all"
                yield candidate(
                    kind, "whenever", text, trajectories=rests_on, scope=Scope(), origin="x", confidence=0.5
                )

    settings = DistillSettings(max_memories_per_trajectory=20)
    report = distill_report(runs, [], [Giving(give)], make.kit(), settings)
    found = {(m.kind, m.content, m.scope.tenant, m.scope.user): m for m in report.memories}
    theirs = {("of one", "", "ann"), ("of one", "", "bob"), ("of all", "", ""), ("of one", "acme", "ann")}
    shared = {("of one", "", ""), ("of all", "", ""), ("of one", "acme", "")}
    assert set(found) == {
        *(("preference", *of) for of in theirs),
        *(("parameter", *of) for of in theirs),
        *(("insight", *of) for of in shared),
    }
    assert found["insight", "of one", "", ""].support == 2  # two users corroborate each other
    assert len({memory.id for memory in report.memories}) == len(found)
    private = {key for key, memory in found.items() if memory.privacy == "private"}
    assert private == {("preference", *of) for of in theirs if of[-1]}


def test_tenants_are_distilled_one_at_a_time_and_keep_what_they_taught(make):
    runs = [
        make.trajectory(f"run-{n}").model_copy(update={"scope": Scope(tenant=tenant)})
        for n, tenant in enumerate(("acme", "beta", "", "acme"))
    ]
    right = make.correction(runs[1], accepted=(make.call("book"),))
    read = []

    def give(found, corrections):
        read.append(({run.scope.tenant for run in found}, len(found), len(corrections)))
        return [lesson(found, "look it up")]  # of no tenant, as a distiller that knows nothing of them

    report = distill_report(runs, [right], [Giving(give)], make.kit(), DistillSettings())
    assert read == [({""}, 1, 0), ({"acme"}, 2, 0), ({"beta"}, 1, 1)]
    found = {memory.scope.tenant: memory for memory in report.memories}
    assert {tenant: memory.support for tenant, memory in found.items()} == {"": 1, "acme": 2, "beta": 1}
    assert len({memory.id for memory in found.values()}) == 3
