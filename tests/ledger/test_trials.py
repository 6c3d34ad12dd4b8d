"""Trials in the ledger: what counts for a memory, what for its scope, and what does not count."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from agentkd.config import MemorySettings
from agentkd.ledger import Ledger, ScopeCounts
from agentkd.ledger.item import ITEM_ORIGIN
from agentkd.memory import lift_report
from agentkd.schema import Outcome, Scope, Use, Utility

Make = Any
SHOP = Scope(app="shop", agent="clerk")


@pytest.fixture
def task(ledger: Ledger, make: Make) -> Any:
    """Return a function that stores a task with what it recalled, and finishes it."""

    def happen(
        number: int,
        arm: str,
        shown: Any = (),
        withheld: Any = (),
        *,
        success: bool | None,
        scope: Scope = SHOP,
        run: str = "",
    ) -> str:
        trajectory = make.trajectory(number, success=success)
        if run:
            trajectory = trajectory.model_copy(update={"run_id": run})
        ledger.trajectories.begin(trajectory)
        hits = [make.hit(memory) for memory in (*shown, *withheld)]
        ledger.memories.record_recall(trajectory.id, 0, hits, {memory.id for memory in withheld})
        ledger.trials.record(trajectory.id, arm, scope)  # type: ignore[arg-type]
        ledger.trajectories.finish(trajectory)
        return str(trajectory.id)

    return happen


def utility(ledger: Ledger, memory: Any) -> Utility:
    return ledger.memories.get(memory.id).utility


def test_a_memory_is_compared_on_tasks_that_differ_in_nothing_else(
    ledger: Ledger, make: Make, task: Any
) -> None:
    one, other = make.memory("one"), make.memory("other")
    ledger.memories.admit([one, other])
    task(1, "one", [other], [one], success=True)
    assert utility(ledger, one) == Utility(held_out=1, held_out_wins=1)
    assert utility(ledger, other) == Utility()  # it was seen without the other one
    task(2, "withheld", [], [one, other], success=False)  # tells about recall as a whole
    task(3, "withheld", [], [one], success=False)
    task(4, "one", [one, other], [], success=False)  # the place that was drawn held no memory
    assert utility(ledger, one) == Utility(held_out=1, held_out_wins=1)
    task(5, "shown", [one, other], success=True)
    assert utility(ledger, one) == Utility(recalls=1, wins=1, held_out=1, held_out_wins=1)
    assert utility(ledger, other) == Utility(recalls=1, wins=1)


def test_counters_of_before_a_run_leave_its_own_tasks_out(ledger: Ledger, make: Make, task: Any) -> None:
    one, other, third = (make.memory(name) for name in ("one", "other", "third"))
    ledger.memories.admit([one, other, third])
    task(1, "one", [other], [one], success=True, run="before")
    task(2, "shown", [one, other], success=False, run="before")
    before = ledger.memories.utilities_before("now")
    assert before == {one.id: Utility(recalls=1, held_out=1, held_out_wins=1)}  # it alone was ever withheld
    task(3, "shown", [one, other], success=True, run="now")
    task(4, "one", [one], [other], success=True, run="now")
    task(5, "withheld", [], [one, other], success=True, run="now")
    task(6, "one", [other], [one], success=None, run="now")
    now = ledger.memories.utilities_before("now")
    assert now[one.id] == before[one.id]
    assert now[other.id] == Utility(recalls=1)  # of run `before`; it was withheld in this run alone
    assert ledger.memories.utilities_before("later")[one.id] == utility(ledger, one)
    union = make.memory("both")
    ledger.memories.replace([one.id, other.id], union, "one lesson")
    task(7, "one", [third], [union], success=True, run="now")
    assert ledger.memories.utilities_before("now")[union.id] == Utility()
    whole = make.memory("all three")
    ledger.memories.replace([union.id, third.id], whole, "one lesson")
    task(8, "shown", [third], success=True, run="before")
    task(9, "one", [], [third], success=True, run="now")
    assert ledger.memories.utilities_before("now")[whole.id] == Utility(recalls=1, wins=1)
    assert ledger.memories.utilities_before("later")[whole.id] == utility(ledger, whole)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_task_that_recalled_several_parts_of_a_union_has_nothing_to_be_compared_with(
    ledger: Ledger, make: Make, task: Any, is_new: bool
) -> None:
    one, other = make.memory("ask for the number"), make.memory("ask for the number first")
    imported = make.memory("ask for the order", utility=Utility(recalls=7, wins=3))
    ledger.memories.admit([one, other, imported])
    task(1, "shown", [one, other], success=True)
    task(2, "shown", [one], success=False)
    task(3, "one", [], [other], success=True)
    task(4, "one", [other], [one], success=False)  # one of the two was seen, so what both say was
    late, both = task(5, "shown", [other], success=None), task(6, "shown", [one, other], success=None)
    union = make.memory("ask for the order number") if is_new else one
    ledger.memories.replace([one.id, other.id], union, "they say the same")
    whole = Utility(recalls=1, held_out=1, held_out_wins=1)
    assert utility(ledger, union) == whole
    ledger.memories.record_outcome(both, True)
    assert utility(ledger, union) == whole
    for outcome in (True, None, True):  # given, taken back, and given again
        ledger.memories.record_outcome(late, outcome)
    assert utility(ledger, union) == whole.model_copy(update={"recalls": 2, "wins": 1})
    deep = make.memory("the order number comes first")
    ledger.memories.replace([union.id, imported.id], deep, "they say the same")
    assert utility(ledger, deep) == whole.model_copy(update={"recalls": 9, "wins": 4})
    ledger.memories.record_outcome(late, False)
    assert utility(ledger, deep) == whole.model_copy(update={"recalls": 9, "wins": 3})
    for id_ in (deep.id, union.id):
        ledger.memories.undo(id_, "they differ")
    assert utility(ledger, one) == Utility(recalls=3, wins=2, held_out=1)
    assert utility(ledger, other) == Utility(recalls=3, wins=2, held_out=1, held_out_wins=1)


def test_what_a_union_did_counts_once_after_it_was_taken_apart(ledger: Ledger, make: Make, task: Any) -> None:
    parts = [make.memory(f"ask for {name}") for name in ("one", "two", "three")]
    ledger.memories.admit(parts)
    union, again = make.memory("ask for all"), make.memory("ask for the rest")
    ledger.memories.replace([part.id for part in parts], union, "one lesson")
    for number in range(10):
        task(number, "shown", [union], success=True)
    late = task(10, "shown", [union], success=None)
    ledger.memories.undo(union.id, "they differ")
    ledger.memories.record_outcome(late, True)
    assert {utility(ledger, part).recalls for part in parts} == {11}
    ledger.memories.replace([part.id for part in parts[1:]], again, "one lesson")
    assert utility(ledger, again) == Utility(recalls=11, wins=11)
    ledger.memories.record_outcome(late, None)
    assert utility(ledger, again) == Utility(recalls=10, wins=10)


def test_a_merge_that_was_undone_passes_nothing_on(ledger: Ledger, make: Make, task: Any) -> None:
    old, new, third = (make.memory(text) for text in ("never use x", "always use x", "use x with y"))
    ledger.memories.admit([old, third])
    ledger.memories.supersede(old.id, new, "by a person")
    union = make.memory("always use x with y")
    ledger.memories.replace([new.id, third.id], union, "one lesson")
    late = task(1, "shown", [new], success=None)
    ledger.memories.undo(union.id, "they differ")
    ledger.memories.undo(new.id, "it was wrong")
    ledger.memories.record_outcome(late, True)
    assert utility(ledger, old) == Utility()
    assert ledger.memories.admit([new])[0].outcome == "rejected"


def test_uses_are_the_tasks_behind_the_counters_with_what_else_they_saw(
    ledger: Ledger, make: Make, task: Any
) -> None:
    one, other, third = (make.memory(name) for name in ("one", "other", "third"))
    ledger.memories.admit([one, other, third])
    task(1, "one", [other], [one], success=True)
    task(2, "shown", [one, other], success=False)
    task(3, "withheld", [], [one, other], success=True)
    task(4, "shown", [one, third], success=True)
    task(5, "shown", [one], success=None)
    uses = ledger.trials.uses([one.id, other.id, "unknown"])
    assert {(u.withheld, u.win, u.beside) for u in uses[one.id]} == {
        (True, True, frozenset({other.id})),
        (False, False, frozenset({other.id})),
        (False, True, frozenset({third.id})),
    }
    assert uses[other.id] == [Use(beside=frozenset({one.id}))]
    assert uses["unknown"] == []
    for memory in (one, other):
        assert _counted(uses[memory.id]) == utility(ledger, memory)
    union = make.memory("both of them")
    ledger.memories.replace([one.id, other.id], union, "they say the same")
    uses = ledger.trials.uses([union.id, third.id])
    assert _counted(uses[union.id]) == utility(ledger, union)
    assert uses[union.id] == [Use(win=True, beside=frozenset({third.id}))]
    assert uses[third.id] == [Use(win=True, beside=frozenset({union.id}))]  # what stands for `one` by now


@pytest.mark.parametrize("status", ["compiled", "quarantined", "tombstone", "revoked"])
def test_a_use_is_past_once_something_that_was_beside_can_no_longer_be_recalled(
    ledger: Ledger, make: Make, task: Any, status: str
) -> None:
    one, other = make.memory("one"), make.memory("other")
    item = make.memory("item").model_copy(update={"origin": ITEM_ORIGIN})  # refiners never see it
    ledger.memories.admit([one, other, item])
    task(1, "shown", [one, other, item], success=True)
    task(2, "one", [item], [one, other], success=True)
    task(3, "one", [item], [one], success=True)
    assert not any(use.is_past for use in ledger.trials.uses([one.id])[one.id])
    ledger.memories.set_status(other.id, status, "a test")
    past = {use.is_past for use in ledger.trials.uses([one.id])[one.id] if other.id in use.beside}
    assert past == {status != "compiled"}
    assert not any(u.is_past for u in ledger.trials.uses([one.id])[one.id] if other.id not in u.beside)


def _counted(uses: Any) -> Utility:
    shown, withheld = ([u.win for u in uses if u.withheld is is_out] for is_out in (False, True))
    return Utility(recalls=len(shown), wins=sum(shown), held_out=len(withheld), held_out_wins=sum(withheld))


def test_a_scope_is_counted_by_what_its_tasks_saw(ledger: Ledger, make: Make, task: Any) -> None:
    memories = [make.memory("one"), make.memory("other")]
    ledger.memories.admit(memories)
    for number, success in enumerate((True, True, False)):
        task(number, "shown", memories, success=success)
    task(3, "withheld", [], memories, success=False)
    task(4, "one", memories[:1], memories[1:], success=True)
    task(5, "shown", memories, success=True, scope=Scope(app="bank"))
    counts = ledger.trials.of(SHOP)
    assert counts == ScopeCounts(scope=SHOP, n_shown=3, shown_wins=2, n_withheld=1, n_one=1, one_wins=1)
    assert ledger.trials.of(Scope(app="shop")) == ScopeCounts(scope=Scope(app="shop"))
    by_app = {counts.scope.app: counts for counts in ledger.trials.by(["app"])}
    assert by_app["shop"] == counts.model_copy(update={"scope": Scope(app="shop")})
    assert by_app["bank"].n_shown == 1
    (total,) = ledger.trials.by([])
    assert (total.scope, total.n_shown, total.shown_wins) == (Scope(), 4, 3)
    newest = ledger.trials.of(SHOP, window=2)
    assert (newest.n_shown, newest.n_withheld, newest.n_one) == (0, 1, 1)


def test_an_ungraded_task_counts_once_somebody_grades_it(ledger: Ledger, make: Make, task: Any) -> None:
    memory = make.memory("one")
    ledger.memories.admit([memory])
    id_ = task(1, "shown", [memory], success=None)
    assert utility(ledger, memory) == Utility()
    assert ledger.trials.of(SHOP) == ScopeCounts(scope=SHOP, n_open=1)
    ledger.trajectories.grade(id_, Outcome(success=True))
    assert utility(ledger, memory) == Utility(recalls=1, wins=1)
    ledger.trajectories.grade(id_, Outcome(success=False))
    assert utility(ledger, memory) == Utility(recalls=1, wins=0)
    assert ledger.trials.of(SHOP) == ScopeCounts(scope=SHOP, n_shown=1)


def test_what_a_killed_try_left_does_not_count(ledger: Ledger, make: Make, task: Any) -> None:
    memory = make.memory("one")
    ledger.memories.admit([memory])
    trajectory = make.trajectory(1, success=None)
    ledger.trajectories.begin(trajectory)
    ledger.memories.record_recall(trajectory.id, 0, [make.hit(memory)], {memory.id})
    ledger.trials.record(trajectory.id, "withheld", SHOP)
    task(1, "shown", [memory], success=True)  # the same task is run again
    assert utility(ledger, memory) == Utility(recalls=1, wins=1)
    assert ledger.trials.of(SHOP) == ScopeCounts(scope=SHOP, n_shown=1, shown_wins=1)


def test_a_task_has_one_arm_however_many_steps_it_takes(ledger: Ledger, make: Make) -> None:
    trajectory = make.trajectory(1, success=None)
    ledger.trajectories.begin(trajectory)
    for arm in ("one", "shown"):
        ledger.trials.record(trajectory.id, arm, SHOP)  # type: ignore[arg-type]
    ledger.trajectories.finish(make.trajectory(1))
    assert ledger.trials.of(SHOP).n_one == 1
    assert ledger.trials.of(SHOP).n_shown == 0


@pytest.mark.parametrize(
    ("counts", "changes", "is_off"),
    [
        ({"n_shown": 40, "shown_wins": 10, "n_withheld": 40, "withheld_wins": 30}, {}, True),
        ({"n_shown": 40, "shown_wins": 30, "n_withheld": 40, "withheld_wins": 10}, {}, False),
        ({"n_shown": 40, "shown_wins": 19, "n_withheld": 40, "withheld_wins": 21}, {}, False),
        ({"n_shown": 19, "shown_wins": 0, "n_withheld": 40, "withheld_wins": 40}, {}, False),
        ({"n_shown": 19, "shown_wins": 0, "n_withheld": 40, "withheld_wins": 40}, {"trial_tasks": 9}, True),
        ({"n_shown": 40, "n_withheld": 40, "withheld_wins": 30}, {"switch_off": False}, False),
        ({"n_shown": 40, "shown_wins": 9, "n_withheld": 40, "withheld_wins": 12}, {"trial_level": 0.6}, True),
    ],
)  # fmt: skip
def test_recall_is_off_where_lift_is_credibly_negative(
    counts: dict[str, int], changes: dict[str, Any], is_off: bool
) -> None:
    off = ScopeCounts(**counts).off(MemorySettings(**changes))
    assert (off is not None) == is_off
    if off is not None:
        assert off.value < 0.0
        assert off.p_negative >= off.level


def test_a_standing_says_since_when_and_when_evidence_came(ledger: Ledger, make: Make) -> None:
    begun = datetime.now(UTC)
    for number in (1, 2):
        ledger.trajectories.begin(make.trajectory(number))
        ledger.trajectories.finish(make.trajectory(number))
    memory = make.memory("one", "trj-1")
    ledger.memories.admit([memory])
    ledger.memories.set_status(memory.id, "quarantined", "utility-prune: harmful")
    standing = ledger.memories.standings([memory.id, "mem-none"])[memory.id]
    assert standing.changed_at >= begun
    assert (standing.reason, standing.evidence_at) == ("utility-prune: harmful", None)
    more = make.memory("one", "trj-2").evidence
    ledger.memories.corroborate(memory.id, more)
    after = ledger.memories.standings([memory.id])[memory.id]
    assert after.changed_at == standing.changed_at
    assert after.evidence_at is not None
    assert after.evidence_at >= after.changed_at


def test_scopes_that_are_counted_as_one_are_off_only_where_each_of_them_is(
    ledger: Ledger, make: Make, task: Any
) -> None:
    memory = make.memory("one")
    ledger.memories.admit([memory])
    for number in range(48):  # three users with 8 tasks on either side: too few to judge any of them
        user, is_shown = f"user-{number % 3}", number % 2 == 0
        scope = SHOP.model_copy(update={"user": user})
        shown, withheld = ([memory], []) if is_shown else ([], [memory])
        arm = "shown" if is_shown else "withheld"
        task(number, arm, shown, withheld, success=not is_shown, scope=scope)
    settings = MemorySettings()
    assert [each.is_off for each in lift_report(ledger, settings).scopes] == [False] * 3
    assert [each.is_off for each in lift_report(ledger, settings, ["app"]).scopes] == [False]
    assert [each.is_off for each in lift_report(ledger, MemorySettings(trial_tasks=4), ["app"]).scopes] == [
        True
    ]
