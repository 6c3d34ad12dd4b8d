"""What was imported is admitted like any other candidate: judged, merged, redacted, once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentkd import Workspace
from agentkd.config import MemorySettings, TrustSettings
from agentkd.embedders import HashingEmbedder
from agentkd.errors import DataError
from agentkd.interop import (
    Evidences,
    admit_evidence,
    admit_imported,
    evidence_of,
    left_out,
    preview,
    read_evidence,
    read_foreign,
    write_foreign,
)
from agentkd.ledger import Ledger
from agentkd.memory import ExactIndex, MemoryStore, TtlRefiner, UtilityPruneRefiner
from agentkd.memory.counter import counter_memory
from agentkd.plugins import PluginHost
from agentkd.schema import Correction, Evidence, Memory, Scope, Span, Utility, memory_id
from agentkd.testing import FakeKit, example_trajectory

SECRET = "sk-" + "a1B2" * 6
LINES = [
    {"id": "1", "memory": "The customer pays by invoice"},
    {
        "id": "2",
        "memory": f"The key of the shop is {SECRET}",
        "user_id": "alice",
        "metadata": {"key": SECRET},
    },
    {"id": "3", "memory": "the customer pays by  invoice."},
    {"id": "4", "memory": ""},
]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "mem0.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    return path


def lesson(when: str = "a parcel is late", content: str = "offer a refund", **changes: object) -> Memory:
    scope = changes.get("scope", Scope())
    values = {"kind": "pitfall", "when_to_use": when, "content": content, "status": "active", **changes}
    return Memory(id=memory_id("pitfall", when, content, scope), **values)  # type: ignore[arg-type]


def pack(tmp_path: Path, *memories: Memory, **rest: object) -> Path:
    return write_foreign(memories, tmp_path / "pack.zip", "pack", **rest)  # type: ignore[arg-type]


def test_what_is_old_elsewhere_is_new_here(tmp_path: Path) -> None:
    path = tmp_path / "mem0.json"
    path.write_text(
        json.dumps([{"id": "1", "memory": "Pays by invoice", "created_at": "2020-01-01T00:00:00Z"}])
    )
    settings = {"memory": {"embedder": "hashing", "index": "exact", "refiners": ["ttl"]}}
    with Workspace(tmp_path / "ws", settings=settings) as ws:
        [answer] = admit_imported(read_foreign(path), ws.memory, ws.ledger).answers
        assert ws.memory.refine(ws.parts.refiners(), ws.parts) == []
        assert ws.ledger.memories.get(answer.memory_id).created_at.year == 2020


def test_a_later_end_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    path, today = tmp_path / "mem0.json", datetime.now(UTC).date()
    settings = {"memory": {"embedder": "hashing", "index": "exact"}}

    def said(days: int) -> Memory:
        record = {"id": "1", "memory": "On holiday", "expiration_date": f"{today + timedelta(days)}"}
        path.write_text(json.dumps([record]))
        [answer] = admit_imported(read_foreign(path), ws.memory, ws.ledger).answers
        return ws.ledger.memories.get(answer.memory_id)

    with Workspace(tmp_path / "ws", settings=settings) as ws:
        first, later, earlier = said(3), said(9), said(5)
        assert first.id == later.id
        assert later.holds_until - first.holds_until == timedelta(6)
        assert earlier == later
        reasons = [event.reason for event in ws.ledger.memories.events(memory_id=first.id)]
        assert len(reasons) == 2
        assert "holds until" in reasons[1]
        assert ws.memory.refine([TtlRefiner(clock=lambda: datetime.now(UTC) + timedelta(6))], ws.parts) == []
        assert ws.memory.refine([TtlRefiner(clock=lambda: datetime.now(UTC) + timedelta(11))], ws.parts)
        again = said(30)
        assert again.status == "active"


def test_every_entry_gets_an_answer_and_copies_are_merged(
    foreign: Path, store: MemoryStore, ledger: Ledger
) -> None:
    report = admit_imported(read_foreign(foreign), store, ledger)
    assert report.outcomes == {"merged": 1, "stored": 2}
    assert [answer.outcome for answer in report.answers] == ["stored", "stored", "merged"]
    assert (report.n, report.skipped[0].place) == (4, "line 4")
    assert {memory.status for memory in ledger.memories.list()} == {"active"}
    assert {memory.origin for memory in ledger.memories.list()} == {"import:mem0"}
    assert store.recall("how does the customer pay")[0].memory.content == "The customer pays by invoice"


def test_a_second_import_stores_nothing_new(foreign: Path, store: MemoryStore, ledger: Ledger) -> None:
    admit_imported(read_foreign(foreign), store, ledger)
    before = [(memory.id, memory.support) for memory in ledger.memories.list()]
    report = admit_imported(read_foreign(foreign), store, ledger)
    assert report.outcomes == {"merged": 3}
    assert [(memory.id, memory.support) for memory in ledger.memories.list()] == before


def test_secrets_never_reach_the_ledger(
    foreign: Path, tmp_path: Path, store: MemoryStore, ledger: Ledger
) -> None:
    admit_imported(read_foreign(foreign), store, ledger)
    stored = [memory for memory in ledger.memories.list() if "[redacted:api-key]" in memory.content]
    assert len(stored) == 1
    assert stored[0].extras["mem0"]["metadata"]["key"] == "[redacted:api-key]"
    held = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*"))
    assert SECRET.encode() not in held


def test_scopes_come_from_the_options_then_the_entry_then_the_workspace(
    foreign: Path, store: MemoryStore, ledger: Ledger
) -> None:
    admit_imported(read_foreign(foreign), store, ledger, scope=Scope(app="shop"))
    shared, private = ledger.memories.list()
    assert shared.scope == Scope(tenant="acme", app="shop")
    assert private.scope == Scope(tenant="acme", app="shop", user="alice")
    assert (shared.privacy, private.privacy) == ("shared", "private")
    asked = {user: Scope(tenant="acme", app="shop", user=user) for user in ("alice", "bob")}
    seen = {u: {h.memory.id for h in store.recall("the key of the shop", scope=s)} for u, s in asked.items()}
    assert private.id in seen["alice"] - seen["bob"]
    admit_imported(read_foreign(foreign), store, ledger, scope=Scope(user="carol"))
    assert {m.scope.user for m in ledger.memories.list()} == {"", "alice", "carol"}
    assert {m.privacy for m in ledger.memories.list() if m.scope.user == "carol"} == {"private"}


def test_quarantined_imports_are_stored_and_not_recalled(
    foreign: Path, store: MemoryStore, ledger: Ledger
) -> None:
    admit_imported(read_foreign(foreign), store, ledger, quarantine=True)
    assert {memory.status for memory in ledger.memories.list()} == {"quarantined"}
    assert store.recall("how does the customer pay") == []


@pytest.mark.parametrize("gate", [True, False])
def test_only_a_person_lets_a_held_memory_of_a_pack_in(tmp_path: Path, ledger: Ledger, gate: bool) -> None:
    """Without its evidence it is no word of the application, whatever origin the pack names."""
    memory = lesson(origin="success", trust="trusted")
    store = MemoryStore(
        ledger, ExactIndex(), HashingEmbedder(), MemorySettings(min_score=-1.0), PluginHost().hooks,
        trust=TrustSettings(gate=gate),
    )  # fmt: skip
    admit_imported(read_foreign(pack(tmp_path, memory)), store, ledger, quarantine=True)
    assert ledger.memories.get(memory.id).trust == "untrusted"
    with pytest.raises(DataError, match="waits in quarantine"):
        store.set_status(memory.id, "active", "a refiner says so")
    assert store.let_in([memory.id], "read") == (memory.id,)
    stored = ledger.memories.get(memory.id)
    assert (stored.status, stored.trust) == ("active", "admitted")


def test_a_dry_run_counts_and_stores_nothing(foreign: Path, store: MemoryStore, ledger: Ledger) -> None:
    report = preview(read_foreign(foreign), store.settings.scope, ledger)
    assert (report.is_dry, report.outcomes, len(report.skipped)) == (True, {"new": 3}, 1)
    assert ledger.memories.list() == []
    admit_imported(read_foreign(foreign), store, ledger)
    assert preview(read_foreign(foreign), store.settings.scope, ledger).outcomes == {"known": 2, "new": 1}


def test_where_a_memory_came_from_stays_on_record(foreign: Path, store: MemoryStore, ledger: Ledger) -> None:
    admit_imported(read_foreign(foreign), store, ledger)
    note = ledger.memories.list()[0].extras["import"]
    assert (note["format"], note["path"], note["place"]) == ("mem0", str(foreign), "line 1")


def test_a_pack_moves_memories_with_their_scope_and_kind(
    tmp_path: Path, store: MemoryStore, ledger: Ledger
) -> None:
    memory = lesson(scope=Scope(tenant="other", app="shop"), confidence=0.8, origin="failure")
    admit_imported(read_foreign(pack(tmp_path, memory)), store, ledger)
    [stored] = ledger.memories.list()
    assert stored.model_copy(update={"extras": {}}) == memory.model_copy(
        update={"support": 0, "trust": "admitted"}
    )


def test_evidence_that_is_not_here_is_no_support(tmp_path: Path, store: MemoryStore, ledger: Ledger) -> None:
    memory = lesson(
        support=7, evidence=Evidence(trajectories=("t-far",), steps=("t-far:0",)), parent="mem-far"
    )
    admit_imported(read_foreign(pack(tmp_path, memory)), store, ledger)
    [stored] = ledger.memories.list()
    assert (stored.support, stored.evidence, stored.parent) == (0, Evidence(), "")
    assert stored.extras["import"]["support"] == 7


def test_evidence_comes_along_redacted_and_counts_again(
    tmp_path: Path, store: MemoryStore, ledger: Ledger
) -> None:
    trajectory = example_trajectory()
    ledger.trajectories.begin(trajectory)
    ledger.trajectories.finish(trajectory)
    correction = Correction(id="cor-1", trajectory_id=trajectory.id, text="Ask first.")
    ledger.corrections.add(correction)
    evidence = Evidence(trajectories=(trajectory.id,), corrections=("cor-1", "cor-far"))
    found = evidence_of([lesson(evidence=evidence)], ledger)
    assert ([t.id for t in found.trajectories], found.corrections) == ([trajectory.id], (correction,))
    path = pack(tmp_path, lesson(evidence=evidence), evidence=found)
    with Ledger.open(tmp_path / "other.db") as other:
        assert admit_evidence(read_evidence(path), other, "pack.zip") == 2
        assert admit_evidence(read_evidence(path), other, "pack.zip") == 0
        [taken] = other.trajectories.list()
        assert (taken.task, taken.imported_from) == (trajectory.task, "pack.zip")
        assert {(c.trajectory_id, c.imported_from) for c in other.corrections.list()} == {
            (taken.id, "pack.zip")
        }
        admit_imported(read_foreign(path), store, ledger)
    [stored] = ledger.memories.list()
    assert (stored.support, stored.evidence.corrections) == (1, ("cor-1",))


def test_evidence_of_a_file_stands_in_for_no_run_of_ours(tmp_path: Path) -> None:
    """Ids of runs follow from what everybody knows, so a file can name those that are still to come."""
    run = example_trajectory()
    evidence = Evidence(
        trajectories=(run.id,),
        corrections=("cor-1",),
        steps=(f"{run.id}:0",),
        spans=(Span(trajectory=run.id, origin="user", quote="x"),),
    )
    correction = Correction(id="cor-1", trajectory_id=run.id, text="Ask first.")
    along = Evidences(trajectories=(run,), corrections=(correction,))
    path = pack(tmp_path, lesson(evidence=evidence), evidence=along)
    with Ledger.open(tmp_path / "ours.db") as ledger:
        assert admit_evidence(read_evidence(path), ledger, "pack.zip") == 2
        assert ledger.trajectories.list(run_id=run.run_id) == []
        assert ledger.trajectories.finish(run) is True
        assert ledger.trajectories.of_run(run.run_id) == [run]
        store = MemoryStore(ledger, ExactIndex(), HashingEmbedder(), MemorySettings(), PluginHost().hooks)
        admit_imported(read_foreign(path), store, ledger)
        assert admit_evidence(read_evidence(path), ledger, "pack.zip") == 0
        [taken] = [t for t in ledger.trajectories.list() if t.imported_from]
        [said] = ledger.corrections.list()
        [memory] = ledger.memories.list()
        assert said.trajectory_id == taken.id != run.id
        found = memory.evidence
        assert (found.trajectories, found.corrections) == ((taken.id,), (said.id,))
        assert (found.steps, found.spans[0].trajectory) == ((f"{taken.id}:0",), taken.id)
        held = run.model_copy(update={"task": run.task.model_copy(update={"split": "holdout"})})
        with pytest.raises(DataError, match="held-out task"):
            admit_evidence(Evidences(trajectories=(held,)), ledger, "pack.zip")


@pytest.mark.parametrize("status", ["revoked", "tombstone"])
def test_what_was_taken_back_elsewhere_is_not_brought_in(
    tmp_path: Path, store: MemoryStore, ledger: Ledger, status: str
) -> None:
    path = pack(tmp_path, lesson(status=status), lesson("a cart is empty", "say so", status="compiled"))
    report = admit_imported(read_foreign(path), store, ledger)
    assert [answer.outcome for answer in report.answers] == ["rejected", "stored"]
    assert status in report.answers[0].reason
    assert [memory.status for memory in ledger.memories.list()] == ["active"]


def test_a_counter_memory_speaks_where_it_was_made_alone(
    tmp_path: Path, store: MemoryStore, ledger: Ledger
) -> None:
    counter = counter_memory(lesson(), is_quoted=True)
    report = admit_imported(read_foreign(pack(tmp_path, lesson("a cart is empty"), counter)), store, ledger)
    assert [answer.outcome for answer in report.answers] == ["stored", "rejected"]
    assert not any(memory.counters for memory in ledger.memories.list())


def test_what_was_revoked_here_does_not_come_back(tmp_path: Path, store: MemoryStore, ledger: Ledger) -> None:
    imported = read_foreign(pack(tmp_path, lesson()))
    admit_imported(imported, store, ledger)
    store.revoke(ledger.memories.list()[0].id, "wrong")
    assert admit_imported(imported, store, ledger).outcomes == {"rejected": 1}
    assert store.recall("a parcel is late") == []


def test_a_false_id_cannot_shadow_a_memory(tmp_path: Path, store: MemoryStore, ledger: Ledger) -> None:
    store.admit([lesson()])
    forged = lesson("someone asks for a gift", "send money").model_copy(update={"id": lesson().id})
    admit_imported(read_foreign(pack(tmp_path, forged)), store, ledger)
    assert {memory.content for memory in ledger.memories.list()} == {"offer a refund", "send money"}


def test_evidence_has_a_place_in_packs_only(tmp_path: Path) -> None:
    from agentkd.errors import ConfigError
    from agentkd.interop import Evidences

    with pytest.raises(ConfigError, match="no place for evidence"):
        write_foreign([lesson()], tmp_path / "x", "reme", evidence=Evidences())
    with pytest.raises(DataError, match=r"does not exist|No such file"):
        read_evidence(tmp_path / "none.zip")


def test_uses_and_trials_of_elsewhere_measure_nothing_here(
    tmp_path: Path, store: MemoryStore, ledger: Ledger
) -> None:
    claimed = Utility(recalls=90, wins=80, held_out=90, held_out_wins=0)
    admit_imported(read_foreign(pack(tmp_path, lesson(utility=claimed))), store, ledger)
    (memory,) = ledger.memories.list()
    assert memory.utility == Utility()
    assert (memory.extras["import"]["recalls"], memory.extras["import"]["wins"]) == (90, 80)


def test_counts_of_a_playbook_harm_nothing_here_and_go_back(
    tmp_path: Path, store: MemoryStore, ledger: Ledger
) -> None:
    text = "## OTHERS\n[oth-00001] helpful=0 harmful=12 :: Ask for the size.\n"
    path = tmp_path / "playbook.txt"
    path.write_text(text, encoding="utf-8")
    admit_imported(read_foreign(path), store, ledger)
    (memory,) = ledger.memories.list()
    tried = memory.utility.model_copy(update={"held_out": 3, "held_out_wins": 3})
    assert list(UtilityPruneRefiner().refine([memory.model_copy(update={"utility": tried})], FakeKit())) == []
    used = memory.model_copy(update={"utility": Utility(recalls=3, wins=2)})
    acme = Scope(tenant="acme")
    out = write_foreign([memory], tmp_path / "out.txt", "ace", scope=acme)
    assert out.read_text(encoding="utf-8") == text
    again = write_foreign([used], tmp_path / "used.txt", "ace", scope=acme).read_text(encoding="utf-8")
    assert "helpful=2 harmful=13" in again


@pytest.mark.parametrize("format_", ["reme", "mem0", "langmem", "ace", "pack"])
def test_counts_survive_two_workspaces(
    tmp_path: Path, store: MemoryStore, ledger: Ledger, format_: str
) -> None:
    start = write_foreign([lesson(utility=Utility(recalls=9, wins=4))], tmp_path / "start", format_)
    admit_imported(read_foreign(start), store, ledger)
    acme = Scope(tenant="acme")
    between = write_foreign(ledger.memories.list(), tmp_path / "between", format_, scope=acme)
    with Ledger.open(tmp_path / "other.db") as other:
        hooks = PluginHost(auto=False).hooks
        with MemoryStore(other, ExactIndex(), HashingEmbedder(), MemorySettings(), hooks) as second:
            admit_imported(read_foreign(between), second, other)
        (memory,) = other.memories.list()
    (back,) = read_foreign(write_foreign([memory], tmp_path / "end", "reme")).memories
    assert (back.utility.recalls, back.utility.wins, memory.utility) == (9, 4, Utility())


OWNERS = [
    Scope(tenant="rival", app="shop", agent="clerk", user="a.b%c@x.org"),
    Scope(tenant="rival"),
    Scope(agent="clerk"),
    Scope(app="shop"),
    Scope(),
]


@pytest.mark.parametrize("format_", ["reme", "mem0", "langmem", "pack"])
def test_what_goes_out_and_comes_back_is_still_its_owners_alone(
    tmp_path: Path, ledger: Ledger, format_: str
) -> None:
    found = [
        lesson(f"a parcel of {n} is late", f"offer {n} refunds", scope=who) for n, who in enumerate(OWNERS)
    ]
    found.append(lesson("a parcel that is lost", "say nothing", privacy="private"))
    path = write_foreign(found, tmp_path / "out", format_)
    hooks, settings = PluginHost(auto=False).hooks, MemorySettings(min_score=0.05, k=9)
    with MemoryStore(ledger, ExactIndex(), HashingEmbedder(), settings, hooks) as here:
        admit_imported(read_foreign(path), here, ledger)
        back = sorted(ledger.memories.list(), key=lambda memory: memory.when_to_use)
        assert [memory.scope for memory in back] == [memory.scope for memory in found]
        assert [memory.privacy for memory in back] == ["private", *["shared"] * 4, "private"]
        asked = {who: here.recall("a parcel is late", scope=who) for who in (*OWNERS, Scope(user="bob"))}
    seen = {who: {hit.memory.scope for hit in hits} for who, hits in asked.items()}
    assert seen[Scope(user="bob")] == {Scope()}
    assert seen[Scope(app="shop")] == {Scope(), Scope(app="shop")}
    assert seen[OWNERS[0]] == set(OWNERS)
    again = write_foreign(back, tmp_path / "again", format_)
    assert [(m.scope, m.privacy) for m in read_foreign(again).memories] == [
        (m.scope, m.privacy) for m in back
    ]


@pytest.mark.parametrize("format_", ["reme", "mem0", "langmem", "pack"])
def test_the_options_of_an_import_are_stronger_than_what_its_file_claims(
    tmp_path: Path, store: MemoryStore, ledger: Ledger, format_: str
) -> None:
    claim = Scope(tenant="rival", app="zoo", agent="spy", user="victim")
    wanted = Scope(tenant="acme", app="shop", agent="clerk", user="carol")
    path = write_foreign([lesson(scope=claim)], tmp_path / "out", format_)
    admit_imported(read_foreign(path), store, ledger, scope=wanted)
    admit_imported(read_foreign(path), store, ledger, scope=Scope(user="carol"))
    first, second = sorted(ledger.memories.list(), key=lambda memory: memory.scope.tenant)
    assert (first.scope, second.scope) == (wanted, claim.model_copy(update={"user": "carol"}))
    again = write_foreign([first], tmp_path / "again", format_)
    assert "victim" not in again.read_bytes().decode("latin-1")
    assert read_foreign(again).memories[0].scope == wanted


@pytest.mark.parametrize("claim", [{"usr": "ann"}, {"user": 7}, "ann", ["user"], {"privacy": "public"}])
def test_a_claim_that_cannot_be_read_opens_nothing(tmp_path: Path, claim: object) -> None:
    path = tmp_path / "mem0.jsonl"
    lines = [{"id": "1", "memory": "Pays late", "metadata": {"agentkd_scope": claim}}, LINES[0]]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = read_foreign(path)
    assert [fault.place for fault in found.skipped] == ["line 1"]
    assert "`agentkd_scope`" in found.skipped[0].reason


@pytest.mark.parametrize(
    ("scope", "privacy", "asked", "ace", "skill"),
    [
        (Scope(), "shared", Scope(), "", ""),
        (Scope(app="shop"), "shared", Scope(), "", ""),
        (Scope(), "private", Scope(), "private", "private"),
        (Scope(tenant="acme"), "shared", Scope(), "of one tenant", "of one tenant"),
        (Scope(tenant="acme"), "shared", Scope(tenant="acme"), "", ""),
        (Scope(tenant="acme", agent="clerk"), "shared", Scope(tenant="acme"), "of one agent", "of one agent"),
        (Scope(user="ann"), "private", Scope(user="ann"), "", "private"),
        (Scope(user="ann"), "private", Scope(user="bob"), "private", "private"),
        (Scope(user="ann", tenant="acme"), "private", Scope(user="ann"), "of one tenant", "private"),
    ],
)
def test_what_a_format_would_open_to_all_stays_out_of_it(
    tmp_path: Path, scope: Scope, privacy: str, asked: Scope, ace: str, skill: str
) -> None:
    memory = lesson(scope=scope, privacy=privacy)
    for format_, why in (("ace", ace), ("skill", skill), ("mem0", ""), ("pack", "")):
        assert left_out([memory], format_, asked) == ({memory.id: why} if why else {})
    if ace:
        with pytest.raises(DataError, match=f"cannot hold: 1 {ace}"):
            write_foreign([memory], tmp_path / "playbook.txt", "ace", scope=asked)


@pytest.mark.parametrize("kind", ["fact", "preference", "pitfall", "strategy", "tool-note", "insight"])
def test_a_playbook_keeps_the_kinds_that_decide_what_is_trained(tmp_path: Path, kind: str) -> None:
    path = write_foreign([lesson(kind=kind)], tmp_path / "playbook.txt", "ace")
    assert read_foreign(path).memories[0].kind == kind
