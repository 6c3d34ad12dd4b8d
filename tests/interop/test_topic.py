"""Strong memories of one topic become a skill that agents find, and that reads back as what it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skills_ref import validate

from agentkd.embedders import HashingEmbedder
from agentkd.errors import ConfigError
from agentkd.interop import Strength, export_skills, read_skills, strong_memories, topics_of
from agentkd.ledger import Ledger
from agentkd.schema import Memory, Scope, Utility, memory_id

from .interop_values import memories

THINGS = ("a red lamp", "a blue lamp", "a green lamp")


def lesson(when: str, content: str = "", **changes: object) -> Memory:
    scope = changes.get("scope", Scope(app="shop"))
    values = {
        "kind": "insight",
        "content": content or f"do {when}",
        "scope": scope,
        "status": "active",
        "support": 3,
    }
    made = Memory(id="", when_to_use=when, **(values | changes))  # type: ignore[arg-type]
    return made.model_copy(update={"id": memory_id(made.kind, when, made.content, made.scope)})


LAMPS = [lesson(f"the user wants to buy {thing} for the living room") for thing in THINGS]
MAILS = [
    lesson(f"an e-mail about {thing} must be sent to the supplier")
    for thing in ("bills", "returns", "offers")
]


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    opened = Ledger.open(":memory:")
    opened.memories.admit([*LAMPS, *MAILS])
    yield opened
    opened.close()


def topics(found: list[Memory], **options: object):
    return topics_of(found, HashingEmbedder(), **({"alike": 0.3} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "is_strong"),
    [
        ({}, True),
        ({"support": 1}, False),
        ({"confidence": 0.4}, False),
        ({"privacy": "private"}, False),
        ({"scope": Scope(app="shop", user="alice")}, False),
        ({"scope": Scope(app="shop", tenant="acme")}, False),
        ({"scope": Scope(app="shop", agent="clerk")}, False),
        ({"kind": "fact"}, False),
        ({"kind": "case"}, False),
        ({"status": "quarantined"}, False),
        ({"status": "compiled"}, True),
        ({"support": 1, "utility": Utility(recalls=30, wins=30, held_out=30, held_out_wins=3)}, True),
        ({"support": 1, "utility": Utility(recalls=500, wins=500)}, False),
        ({"support": 9, "utility": Utility(recalls=30, wins=3, held_out=30, held_out_wins=30)}, False),
    ],
)
def test_only_what_proved_itself_and_may_be_shared_is_strong(changes: dict, is_strong: bool) -> None:
    assert bool(strong_memories([lesson("a parcel is late", **changes)])) == is_strong


def test_a_tenant_gets_its_own_skills_and_those_of_all() -> None:
    own, common, other = (
        lesson("a parcel is late", scope=Scope(tenant=name)) for name in ("acme", "", "beta")
    )
    found = strong_memories([own, common, other], scope=Scope(tenant="acme"))
    assert {memory.id for memory in found} == {own.id, common.id}


def test_the_bars_of_strength_are_settings() -> None:
    weak = lesson("a parcel is late", support=1, confidence=0.2, kind="preference")
    assert strong_memories([weak]) == []
    assert strong_memories([weak], Strength(min_support=1, min_confidence=0.1, kinds=("preference",))) == [
        weak
    ]


def test_topics_are_found_within_an_application_and_have_names_and_uses() -> None:
    other = [
        lesson(f"the user wants to buy {thing} for the living room", scope=Scope(app="zoo"))
        for thing in THINGS
    ]
    found = topics([*LAMPS, *MAILS, *other])
    assert [{m.id for m in topic.memories} for topic in found] == [
        {m.id for m in group} for group in (LAMPS, MAILS, other)
    ]
    assert [topic.name.split("-")[0] for topic in found] == ["shop", "shop", "zoo"]
    assert "lamp" in found[0].name
    assert "(shop), for example: the user wants to buy a" in found[0].description
    assert all(topic.description.startswith("Lessons about ") for topic in found)
    assert [len(topics([*LAMPS, *MAILS], at_least=n)) for n in (3, 4)] == [2, 0]
    assert len(topics([*LAMPS, *MAILS], alike=0.0, at_least=6)) == 1


@given(st.permutations([*LAMPS, *MAILS]))
@settings(max_examples=20, deadline=None)
def test_topics_do_not_depend_on_the_order_of_the_ledger(found: list[Memory]) -> None:
    assert topics(strong_memories(found)) == topics(strong_memories([*LAMPS, *MAILS]))


def test_exported_skills_are_valid_and_read_back(tmp_path: Path, ledger: Ledger) -> None:
    folders = export_skills(topics([*LAMPS, *MAILS]), tmp_path / "skills", ledger)
    assert [validate(folder) for folder in folders] == [[], []]
    back = read_skills(tmp_path / "skills")
    assert back.skipped == ()
    assert {m.id for m in back.memories} == {m.id for m in (*LAMPS, *MAILS)}
    assert {m.extras["skill"]["id"] for m in back.memories} == {m.id for m in (*LAMPS, *MAILS)}
    assert sorted(path.name for path in (tmp_path / "skills").iterdir()) == sorted(f.name for f in folders)


@given(st.lists(memories(), min_size=1, max_size=4, unique_by=lambda memory: memory.id))
@settings(max_examples=40, deadline=None)
def test_whatever_the_memories_say_the_skill_is_valid(
    tmp_path_factory: pytest.TempPathFactory, found: list
) -> None:
    folder, ledger = tmp_path_factory.mktemp("skills"), Ledger.open(":memory:")
    made = export_skills(topics(found, alike=-1.0, at_least=1), folder, ledger)
    assert [validate(skill) for skill in made] == [[] for _ in made]
    assert len(read_skills(folder).memories) == len(found)
    ledger.close()


def test_skills_of_topics_that_are_gone_are_removed_where_it_is_asked_for(
    tmp_path: Path, ledger: Ledger
) -> None:
    (tmp_path / "by-hand").mkdir()
    (tmp_path / "by-hand" / "SKILL.md").write_text("---\nname: by-hand\ndescription: Mine.\n---\nDo.\n")
    first = export_skills(topics([*LAMPS, *MAILS]), tmp_path, ledger)
    [kept] = export_skills(topics(MAILS), tmp_path, ledger)
    assert {path.name for path in tmp_path.iterdir()} >= {folder.name for folder in first}
    export_skills(topics(MAILS), tmp_path, ledger, prune=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["by-hand", kept.name])


def test_a_skill_is_replaced_only_where_it_was_exported_before(tmp_path: Path, ledger: Ledger) -> None:
    [first] = export_skills(topics(LAMPS), tmp_path, ledger)
    assert export_skills(topics(LAMPS), tmp_path, ledger) == [first]
    assert "- Situation: " in (first / "SKILL.md").read_text(encoding="utf-8")
    by_hand = f"---\nname: {first.name}\ndescription: Mine.\n---\nBy hand.\n"
    (first / "SKILL.md").write_text(by_hand, encoding="utf-8")
    with pytest.raises(ConfigError, match="not made of memories"):
        export_skills(topics([*MAILS, *LAMPS]), tmp_path, ledger)
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert (first / "SKILL.md").read_text(encoding="utf-8") == by_hand


def test_a_skill_that_another_workspace_exported_is_neither_removed_nor_replaced(
    tmp_path: Path, ledger: Ledger
) -> None:
    elsewhere = Ledger.open(":memory:")
    [theirs] = export_skills(topics(LAMPS), tmp_path, elsewhere)
    (theirs / "reference.md").write_text("Added by a colleague.")
    known = Ledger.open(":memory:")
    known.memories.admit(MAILS)
    export_skills(topics(MAILS), tmp_path, known, prune=True)
    assert (theirs / "reference.md").is_file()
    with pytest.raises(ConfigError, match="of this workspace"):
        export_skills(topics(LAMPS), tmp_path, known)
    export_skills(topics(MAILS), tmp_path, ledger, prune=True)
    assert not theirs.exists()
    for opened in (elsewhere, known):
        opened.close()
