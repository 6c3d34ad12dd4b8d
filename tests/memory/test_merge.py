"""Copies corroborate, lessons that hold each other merge, contradictions are settled; a person may object."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from agentkd.config import RoleSettings, Settings
from agentkd.errors import PluginError
from agentkd.memory.corroborate import CorroborateRefiner, CorroborateSettings
from agentkd.memory.merge import MergeRefiner, MergeSettings
from agentkd.memory.supersede import SupersedeRefiner, SupersedeSettings
from agentkd.memory.wording import contains, contradicts, says_the_same, wording_of
from agentkd.schema import Evidence, MemoryEdit, Scope, ToolCall, ToolSpec, now
from agentkd.testing import FakeKit, ScriptedModel, example_correction, example_trajectory

CALL = ToolCall(name="find_order", arguments={"email": "a@b.c"})
OTHER = ToolCall(name="find_order", arguments={"email": "x@y.z"})


@pytest.fixture
def pool(store, ledger):
    """Return a function that stores memories as they are, past admission."""

    def put(*memories):
        ledger.memories.admit([m.model_copy(update={"status": "active"}) for m in memories])
        return memories

    return put


def corroborate(store, above=0.6):
    return store.refine([CorroborateRefiner(CorroborateSettings(above=above))], FakeKit())


def merge(store, kit=None, above=0.4, **settings):
    return store.refine([MergeRefiner(MergeSettings(above=above, **settings))], kit or FakeKit())


def supersede(store, above=0.6):
    known = [memory.id for memory in store._ledger.memories.list()]
    kit = FakeKit(standings=store._ledger.memories.standings(known).values())
    return store.refine([SupersedeRefiner(SupersedeSettings(above=above))], kit)


def current(ledger):
    return {memory.id: memory for memory in ledger.memories.list()}


def test_near_copies_anywhere_in_the_pool_become_one_with_all_their_runs(
    pool, store, ledger, lesson, happened
):
    one, two, three = happened("tra-1"), happened("tra-2"), happened("tra-3")
    first, second, copy = pool(
        lesson("asks for a refund of red shoes", "check the date of the order first", evidence=(one, two)),
        lesson("asks for a refund of red shoes now", "Check the date of the order first!", evidence=(two,)),
        lesson("asks for a refund of red shoes", "first check the date of the order", evidence=(three,)),
    )
    edits = corroborate(store)
    assert {edit.memory_id for edit in edits} == {second.id, copy.id}
    [kept] = current(ledger).values()
    assert (kept.id, kept.support) == (first.id, 3)
    assert kept.evidence.trajectories == (one, two, three)
    assert [hit.memory.id for hit in store.recall("refund of red shoes now")] == [first.id]
    assert all("corroborate: 2 near copies" in edit.reason for edit in edits)
    assert corroborate(store) == []


@pytest.mark.parametrize(
    "other",
    [
        ("asks for a refund of red shoes", "check the date of order 7 first"),
        ("asks for a refund of red shoes", "do not check the date of the order first"),
        ("wants a table at seven", "check the date of the order first"),
    ],
)
def test_another_value_a_not_or_another_situation_is_no_copy(pool, store, ledger, lesson, other):
    pool(lesson("asks for a refund of red shoes", "check the date of order 5 first"), lesson(*other))
    assert corroborate(store) == []


def test_exemplars_are_copies_only_where_their_calls_are_equal(pool, store, ledger, lesson):
    pool(
        lesson("find my last order please", "find a@b.c", kind="case", calls=(CALL,)),
        lesson("find my last order", "find a@b.c", kind="case", calls=(CALL,)),
        lesson("find my last order please now", "find a@b.c", kind="case", calls=(OTHER,)),
    )
    assert len(corroborate(store)) == 1
    assert len(current(ledger)) == 2
    assert merge(store) == supersede(store) == []


def test_tenants_kinds_and_private_memories_are_never_put_together(pool, store, ledger, lesson):
    words = ("asks for a refund", "check the date of the order")
    pool(
        lesson(*words),
        lesson(*words, kind="pitfall"),
        lesson(*words, scope=Scope(tenant="b")),
        lesson(*words, scope=Scope(user="ada")).model_copy(update={"privacy": "private"}),
    )
    assert corroborate(store) == merge(store) == supersede(store) == []
    assert len(current(ledger)) == 4


def test_a_lesson_that_holds_another_takes_it_in_with_its_situation(pool, store, ledger, lesson, happened):
    long = lesson("asks for a refund of shoes", "Ask for the e-mail. Check the date of the order.",
                  evidence=(happened("tra-1"),))  # fmt: skip
    short = lesson("asks for a refund of boots", "check the date of the order", evidence=(happened("tra-2"),))
    pool(short, long)
    [edit] = merge(store)
    assert (edit.memory_id, edit.replacement) == (short.id, long.id)
    [kept] = current(ledger).values()
    assert (kept.content, kept.support, kept.keys.more) == (long.content, 2, (short.when_to_use,))
    assert [hit.key for hit in store.recall("asks for a refund of boots")] == ["more-1"]
    assert merge(store) == []


def test_equal_calls_for_like_requests_are_found_by_both(pool, store, ledger, lesson):
    pool(
        lesson("find my last order please", "find a@b.c", kind="case", calls=(CALL,), task="find my order"),
        lesson("show my last order to me", "show a@b.c", kind="case", calls=(CALL,), task="show my order"),
    )
    assert len(merge(store, above=0.2)) == 1
    [kept] = current(ledger).values()
    assert len(kept.keys.more) == 2


def worded(answer):
    roles = RoleSettings(distiller="scripted:x")
    model = ScriptedModel([json.dumps(answer)], name="teacher", repeat=True)
    return FakeKit(models={"distiller": model}, settings=Settings(roles=roles)), model


@pytest.fixture
def two_rules(pool, lesson):
    return pool(
        lesson("asks for a refund of shoes", "Ask for the order number; never pay more than 50 euro."),
        lesson("asks for a refund of boots", "Offer `store_credit` first."),
    )


def test_a_model_words_a_common_lesson_that_keeps_everything(two_rules, store, ledger):
    text = "Ask for the order number, offer `store_credit` first, and never pay more than 50 euro."
    kit, model = worded({"keep_apart": False, "when_to_use": "asks for a refund", "lesson": text})
    edits = merge(store, kit)
    assert {edit.memory_id for edit in edits} == {memory.id for memory in two_rules}
    [union] = current(ledger).values()
    assert (union.content, union.origin, union.status) == (text, "merge", "active")
    assert set(union.keys.more) == {memory.when_to_use for memory in two_rules}
    assert {m.id for m in store.history(union.id)} == {union.id, *(m.id for m in two_rules)}
    assert [m.id for m in store.history(two_rules[0].id)][-1] == union.id
    assert len(model.calls) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Ask for the order number and offer `store_credit` first.", "50"),
        ("Ask for the order number, offer `store_credit`, pay at most 50 euro.", "prohibition"),
        ("Ask for the order number, offer `store_credit`, never pay 50 euro or 60.", "60"),
    ],
)
def test_a_wording_that_loses_or_invents_something_is_refused_and_recorded(
    two_rules, store, ledger, text, why
):
    kit, model = worded({"keep_apart": False, "when_to_use": "asks for a refund", "lesson": text})
    refiner = MergeRefiner(MergeSettings(above=0.4))
    assert store.refine([refiner], kit) == []
    assert why in refiner.failures[0]
    assert len(model.calls) == 2  # one repair
    assert store.refine([refiner], kit) == []
    assert len(model.calls) == 2  # and no question twice
    assert len(current(ledger)) == 2


def test_questions_that_were_answered_before_leave_room_for_others(pool, store, lesson):
    for number, name in enumerate(("asks for a refund of shoes", "books a seat to Oslo", "feeds a parrot")):
        pool(
            lesson(name, f"Ask for number {number}."),
            lesson(f"{name} now", f"Offer `credit_{number}` first."),
        )
    kit, model = worded({"keep_apart": True})
    asked = []
    for _ in range(4):
        merge(store, kit, max_questions=2)
        asked.append(len(model.calls))
    assert asked == [2, 3, 3, 3]


def test_all_of_a_large_group_is_asked_about(pool, store, lesson):
    pool(*(lesson("asks for a refund", f"Offer `credit_{n}` first.") for n in range(6)))
    kit, model = worded({"keep_apart": True})
    merge(store, kit)
    shown = "".join(call.messages[-1].content for call in model.calls)
    assert all(f"credit_{n}" in shown for n in range(6))


def test_of_a_tools_notes_the_newest_is_right_and_supports_no_other(pool, store, ledger, lesson):
    def note(text, support, days):
        made = lesson("a call of `find` is due", text, kind="tool-note")
        told = {"extras": {"tool": "find"}, "support": support}
        return made.model_copy(update={**told, "created_at": made.created_at + timedelta(days=days)})

    pool(
        note("`find`: Set `unit` in every call. Usually `unit` is 'k'.", 9, 0),
        note("`find`: Set `unit` in every call.", 4, 1),
    )
    assert merge(store) == []
    supersede(store)
    assert [memory.content for memory in ledger.memories.list()] == ["`find`: Set `unit` in every call."]


def test_without_a_model_nothing_is_worded(two_rules, store):
    assert merge(store) == []


def test_what_a_person_takes_back_is_not_done_again(pool, store, ledger, lesson):
    first, second = pool(
        lesson("asks for a refund of red shoes", "check the date of the order first"),
        lesson("asks for a refund of red shoes now", "check the date of the order first"),
    )
    corroborate(store)
    assert set(store.undo(second.id, "they differ")) == {first.id, second.id}
    assert {hit.memory.id for hit in store.recall("refund of red shoes")} == {first.id, second.id}
    assert corroborate(store) == []
    assert len(current(ledger)) == 2


class Puts:
    name = "puts"

    def __init__(self, *edits):
        self.edits = edits

    def refine(self, memories, kit):
        return self.edits


def test_a_quarantine_that_a_person_overruled_is_not_repeated(pool, store, ledger, lesson):
    [memory] = pool(lesson("book a table"))
    again = Puts(MemoryEdit(ids=(memory.id,), status="quarantined", reason="harmful"))
    assert len(store.refine([again], FakeKit())) == 1
    store.activate(memory.id, "person: it is right")
    assert store.refine([again], FakeKit()) == []
    assert [hit.memory.id for hit in store.recall("book a table")] == [memory.id]


def test_an_edit_that_says_nothing_or_two_things_is_refused(pool, store, lesson):
    [memory] = pool(lesson("book a table"))
    for edit in (
        MemoryEdit(ids=(memory.id,), reason="?"),
        MemoryEdit(ids=(memory.id,), reason="?", status="active", replacement=memory),
    ):
        with pytest.raises(PluginError, match="puts"):
            store.refine([Puts(edit)], FakeKit())


def aged(memory, days, **changes):
    return memory.model_copy(update={"created_at": memory.created_at - timedelta(days=days), **changes})


def test_of_two_values_of_a_parameter_the_newer_one_stays(pool, store, ledger, lesson):
    rule = "When calling `search`, set `{}` to '{}'."
    old, new, other = pool(
        aged(lesson("a call of `search` is due", rule.format("lang", "en"), kind="parameter"), 3),
        lesson("a call of `search` is due", rule.format("lang", "de"), kind="parameter"),
        lesson("a call of `search` is due", rule.format("limit", "5"), kind="parameter"),
    )
    [edit] = supersede(store)
    assert (edit.memory_id, edit.replacement) == (old.id, new.id)
    assert "another value for `lang` of `search`" in edit.reason
    assert set(current(ledger)) == {new.id, other.id}
    assert {m.id for m in store.history(old.id)} == {old.id, new.id}
    assert supersede(store) == []
    store.undo(old.id)
    assert set(current(ledger)) == {old.id, new.id, other.id}


def test_the_better_supported_of_two_opposites_stays_unless_a_person_said_so(
    pool, store, ledger, lesson, happened
):
    runs = [happened(f"tra-{n}") for n in range(3)]
    words = ("asks for a refund of shoes", "pay the money back at once")
    old = aged(lesson(*words, evidence=tuple(runs)), 3, support=3)
    new = lesson(words[0], "do not pay the money back at once", evidence=(runs[0],))
    pool(old, new)
    [edit] = supersede(store)
    assert edit.memory_id == new.id
    store.undo(new.id)


@pytest.fixture
def told(ledger, lesson):
    """Return a function that makes the rule that somebody's correction taught, `days` ago."""

    def make(value, days, source="person"):
        run = example_trajectory().model_copy(update={"id": f"run-{days}"})
        ledger.trajectories.begin(run)
        ledger.trajectories.finish(run)
        said = example_correction(run, f"{value}, please")
        said = said.model_copy(update={"created_at": now() - timedelta(days=days), "source": source})
        ledger.corrections.add(said)
        rule = lesson("a call of `search` is due", f"When calling `search`, set `lang` to '{value}'.",
                      kind="parameter")  # fmt: skip
        evidence = Evidence(trajectories=(run.id,), corrections=(said.id,))
        return rule.model_copy(update={"evidence": evidence, "created_at": said.created_at})

    return make


def values(ledger):
    return [memory.content.split("'")[1] for memory in ledger.memories.list()]


@pytest.mark.parametrize("is_settled", [True, False])
def test_a_person_may_come_back_to_an_earlier_value(store, ledger, told, is_settled):
    store.admit([told("en", 3)])
    store.admit([told("de", 2)])
    if is_settled:
        assert [edit.replacement for edit in supersede(store)]
        assert values(ledger) == ["de"]
    came = now()
    [answer] = store.admit([told("en", 1)])
    assert answer.outcome == "merged"
    assert ledger.memories.standings([answer.memory_id])[answer.memory_id].learnt_at >= came
    assert len(supersede(store)) == 1
    assert values(ledger) == ["en"]
    assert "set `lang` to 'en'" in store.recall("a call of `search` is due")[0].memory.content


def test_a_tool_that_says_it_again_brings_nothing_back(store, ledger, told):
    store.admit([told("en", 3)])
    store.admit([told("de", 2)])
    supersede(store)
    [answer] = store.admit([told("en", 1, source="tool")])
    assert answer.outcome == "rejected"
    assert values(ledger) == ["de"]


def test_what_a_tool_accepted_is_no_persons_word(store, ledger, told):
    store.admit([told("de", 3)])
    store.admit([told("en", 1, source="tool")])
    supersede(store)
    assert values(ledger) == ["de"]


def test_a_reworded_lesson_takes_the_evidence_of_its_old_words(store, ledger, lesson, happened):
    words = ("asks for a refund", "look at the date")
    store.admit([old := lesson(*words, evidence=(happened("tra-1"),))])
    better = lesson(words[0], "look at the date of the order")
    better = better.model_copy(update={"extras": {"reworded_by": "teacher"}})
    ledger.memories.replace([old.id], better, "redistil: clearer")
    [answer] = store.admit([lesson(*words, evidence=(happened("tra-2"),))])
    assert (answer.outcome, answer.memory_id) == ("merged", better.id)
    assert ledger.memories.get(better.id).evidence.trajectories[-1] == "tra-2"


def test_a_memory_that_a_person_kept_may_still_lose_to_another(store, ledger, told):
    store.admit([told("en", 3)])
    store.admit([told("de", 2)])
    [edit] = supersede(store)
    store.undo(edit.memory_id, "both are right")
    assert supersede(store) == []
    store.admit([told("fr", 1)])
    assert {edit.memory_id for edit in supersede(store)} >= {edit.memory_id}
    assert "en" not in values(ledger)


def test_a_newer_correction_replaces_the_exemplar_of_the_same_task_only(
    pool, store, ledger, lesson, happened
):
    from agentkd.testing import example_correction, example_trajectory

    run = example_trajectory()
    ledger.trajectories.begin(run)
    ledger.trajectories.finish(run)
    said = example_correction(run)
    ledger.corrections.add(said)
    request = "find my last order please"
    old = aged(lesson(request, "a", kind="case", calls=(CALL,), task=request), 3)
    near = aged(lesson(f"{request} now", "b", kind="case", calls=(CALL,), task=f"{request} now"), 3)
    new = lesson(request, "c", kind="case", calls=(OTHER,), task=request)
    new = new.model_copy(update={"evidence": Evidence(trajectories=(run.id,), corrections=(said.id,))})
    pool(old, near, new)
    [edit] = supersede(store)
    assert (edit.memory_id, edit.replacement) == (old.id, new.id)
    assert set(current(ledger)) == {near.id, new.id}


def test_wording_sees_values_and_negations():
    w = wording_of
    assert contains(w("Ask for the e-mail. Then look up the order."), w("ask for the e-mail"))
    assert not contains(w("Do not ask for the e-mail address."), w("ask for the e-mail address"))
    assert not contains(w("look up the order then"), w("look up order 5 then"))
    assert contradicts(w("always set the limit to 5"), w("always set the limit to 10"))
    assert contradicts(w("pay at once without asking"), w("pay at once asking"))
    assert not contradicts(w("set the limit to 5"), w("set the language to 'de'"))
    assert says_the_same(w("use `a` and 5"), w("take 5 and `a`"))
    assert not says_the_same(w("use `a`"), w("never use `a`"))


def test_what_a_person_takes_back_is_not_done_by_another_refiner_either(pool, store, ledger, lesson):
    first, second = pool(
        lesson("asks for a refund of red shoes", "check the date of the order first"),
        lesson("asks for a refund of red shoes now", "check the date of the order first"),
    )
    corroborate(store)
    store.undo(second.id, "they differ")
    assert merge(store) == []
    assert set(current(ledger)) == {first.id, second.id}


@pytest.mark.parametrize("change", ["revoked", "quarantined", "replaced"])
def test_what_changes_while_a_refiner_thinks_is_left_alone(pool, store, ledger, lesson, change):
    first, second, union = pool(lesson("book a table"), lesson("book a big table"), lesson("book a seat"))

    class Thinks:
        name = "thinks"

        def refine(self, memories, kit):
            if change != "replaced":
                ledger.memories.set_status(first.id, change, "wrong")
                return [MemoryEdit(ids=(first.id, second.id), replacement=second, reason="alike")]
            ledger.memories.replace([first.id, union.id], union, "merge: alike")
            return [MemoryEdit(ids=(second.id,), replacement=first, reason="the newer one")]

    assert store.refine([Thinks()], FakeKit()) == []
    left = {id_ for id_, memory in current(ledger).items() if memory.status == "active"}
    assert left == {second.id, union.id}


def test_cases_of_one_request_with_other_tools_do_not_contradict_each_other(pool, store, ledger, lesson):
    def run_with(tool):
        run = example_trajectory()
        task = run.task.model_copy(update={"tools": (ToolSpec(name=tool),)})
        run = run.model_copy(update={"id": f"run-{tool}", "task": task})
        ledger.trajectories.begin(run)
        ledger.trajectories.finish(run)
        said = example_correction(run)
        ledger.corrections.add(said)
        return run, Evidence(trajectories=(run.id,), corrections=(said.id,))

    request = "what is 100 less 40"
    (one, first), (two, second) = run_with("add"), run_with("sub")
    old = aged(lesson(request, "a", kind="case", calls=(CALL,), task=request), 3, evidence=first)
    new = lesson(request, "b", kind="case", calls=(OTHER,), task=request)
    pool(old, new.model_copy(update={"evidence": second}))
    refiners = [CorroborateRefiner(), SupersedeRefiner(), MergeRefiner()]
    assert store.refine(refiners, FakeKit(trajectories=[one, two])) == []
    assert set(current(ledger)) == {old.id, new.id}
