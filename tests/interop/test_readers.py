"""Foreign files as their projects write them become candidates; what cannot be read is named by its place."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentkd
from agentkd.errors import ConfigError, DataError
from agentkd.graph import AgentkdStore
from agentkd.interop import (
    admit_imported,
    detect,
    dump_ace,
    dump_langmem,
    dump_mem0,
    dump_reme,
    read_ace,
    read_foreign,
    read_langmem,
    read_mem0,
    read_reme,
    read_skills,
)
from agentkd.interop.section import parts_of
from agentkd.ledger import Ledger
from agentkd.memory import MemoryStore
from agentkd.memory.item import scope_of
from agentkd.schema import Hit, Memory, Scope

DATA = Path(os.environ.get("AGENTKD_DATA") or Path(__file__).parents[3] / "shared" / "data") / "reme-library"
LIBRARIES = sorted(DATA.glob("*.jsonl"))

REME = {
    "workspace_id": "w",
    "memory_id": "m1",
    "memory_type": "task",
    "when_to_use": "before a purchase",
    "content": "Check the balance.",
    "score": 0,
    "time_created": "2025-09-20 11:22:49",
    "author": "qwen3",
    "metadata": {
        "category": "failure",
        "task_query": "Buy 5 shares",
        "freq": 4,
        "utility": 3,
        "extra_info": {"generalized_query": "buy a stock", "tags": ["trade"], "tools_used": ["buy", "pay"]},
    },
}
PLAYBOOK = """\
## STRATEGIES & INSIGHTS
[str-00001] helpful=5 harmful=1 :: Verify data types first.

## COMMON MISTAKES TO AVOID
[err-00004] helpful=0 harmful=0 :: Do not forget
the time zone.
"""
ITEM = {
    "namespace": ["memories", "alice"],
    "key": "k1",
    "value": {"kind": "Memory", "content": {"content": "Likes tea."}},
    "created_at": "2026-01-02T03:04:05+00:00",
    "updated_at": "2026-01-02T03:04:05+00:00",
}
MEM0 = {
    "id": "9d1c",
    "memory": "Is a vegetarian",
    "hash": "ab",
    "metadata": {"mood": "calm"},
    "user_id": "alice",
    "agent_id": "cook",
    "run_id": "r1",
    "created_at": "2026-01-02T03:04:05-08:00",
    "updated_at": None,
    "categories": ["food"],
}


def written(folder: Path, name: str, *values: Any) -> Path:
    path = folder / name
    path.write_text("\n".join(v if isinstance(v, str) else json.dumps(v) for v in values), encoding="utf-8")
    return path


def test_a_reme_memory_keeps_its_keys_counts_and_category(tmp_path: Path) -> None:
    imported = read_reme(written(tmp_path, "a.jsonl", REME))
    [memory] = imported.memories
    assert (memory.kind, memory.when_to_use, memory.content) == (
        "pitfall",
        "before a purchase",
        "Check the balance.",
    )
    assert memory.keys.texts() == {
        "situation": "before a purchase",
        "query": "buy a stock",
        "task": "Buy 5 shares",
        "tools": "buy, pay",
    }
    assert (memory.utility.recalls, memory.utility.wins, memory.origin) == (4, 3, "import:reme")
    assert memory.created_at == datetime(2025, 9, 20, 11, 22, 49, tzinfo=UTC)
    assert imported.places == ("line 1",)
    assert imported.counts_use
    assert json.loads(dump_reme([memory])) == REME


@pytest.mark.parametrize(
    ("type_", "category", "kind"),
    [
        ("task", "success", "insight"),
        ("task", "comparative", "contrast"),
        ("tool", "", "tool-note"),
        ("personal", "", "preference"),
        ("procedural", "failure", "pitfall"),
        ("summary", "", "insight"),
    ],
)
def test_reme_types_and_categories_become_kinds(tmp_path: Path, type_: str, category: str, kind: str) -> None:
    record = {"memory_type": type_, "content": "Look first.", "metadata": {"category": category}}
    assert read_reme(written(tmp_path, "a.jsonl", record)).memories[0].kind == kind


def test_what_reme_knows_of_one_person_is_for_that_user_alone(tmp_path: Path) -> None:
    record = {"memory_type": "personal", "content": "Ann is allergic to nuts", "target": "ann"}
    [memory] = read_reme(written(tmp_path, "a.jsonl", record)).memories
    assert (memory.scope, memory.privacy) == (Scope(user="ann"), "private")
    [again] = [json.loads(line) for line in dump_reme([memory]).splitlines()]
    assert again["target"] == "ann"
    assert "agentkd_scope" not in again.get("metadata", {}), "the target says it"


def test_confidence_is_the_stated_one_then_the_score(tmp_path: Path) -> None:
    base = {"memory_type": "task", "content": "x"}
    stated = {**base, "score": 0.3, "metadata": {"extra_info": {"confidence": 0.9}}}
    found = read_reme(written(tmp_path, "a.jsonl", stated, {**base, "score": 0.3}, {**base, "score": 0}))
    assert [memory.confidence for memory in found.memories] == [0.9, 0.3, 0.5]


@pytest.mark.skipif(not LIBRARIES, reason="the ReMe libraries are not here")
@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.stem)
def test_the_public_libraries_go_in_and_out_unchanged(path: Path) -> None:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    imported = read_foreign(path)
    assert imported.format == "reme"
    assert imported.skipped == ()
    assert len(imported.memories) == len(records)
    assert [json.loads(line) for line in dump_reme(imported.memories).splitlines()] == records


def test_a_playbook_gives_bullets_with_counts_and_sections(tmp_path: Path) -> None:
    first, second = read_ace(written(tmp_path, "playbook.txt", PLAYBOOK)).memories
    assert (first.kind, first.content, first.utility.wins, first.utility.recalls) == (
        "strategy",
        "Verify data types first.",
        5,
        6,
    )
    assert (second.kind, second.content) == ("pitfall", "Do not forget the time zone.")
    assert dump_ace([first, second]) == PLAYBOOK.replace("forget\nthe", "forget the")


@pytest.mark.parametrize(
    "bullets",
    [
        {
            "err-1": {
                "id": "err-1",
                "section": "Common mistakes",
                "content": "Stop.",
                "helpful": 1,
                "harmful": 2,
                "neutral": 3,
            }
        },
        [
            {
                "id": "err-1",
                "section": "Common mistakes",
                "content": "Stop.",
                "metadata": {"helpful": 1, "harmful": 2},
            }
        ],
    ],
)
@pytest.mark.parametrize("name", ["bullets", "skills"])
def test_a_playbook_as_json_reads_the_same(tmp_path: Path, name: str, bullets: Any) -> None:
    path = written(
        tmp_path, "playbook.json", json.dumps({name: bullets, "sections": {}, "next_id": 2}, indent=1)
    )
    assert detect(path) == "ace"
    [memory] = read_foreign(path).memories
    assert (memory.kind, memory.content, memory.utility.recalls, memory.utility.wins) == (
        "pitfall",
        "Stop.",
        3,
        1,
    )


def test_a_playbook_without_headings_is_known_by_its_bullets(tmp_path: Path) -> None:
    bullets = ("[a-1] helpful=1 harmful=0 :: Go.", "[a-2] helpful=0 harmful=2 :: Stop.")
    path = written(tmp_path, "p.txt", *bullets)
    assert detect(path) == "ace"
    assert [memory.content for memory in read_foreign(path).memories] == ["Go.", "Stop."]


def test_text_before_the_first_bullet_is_skipped_by_line(tmp_path: Path) -> None:
    found = read_ace(written(tmp_path, "p.txt", "hello", "[a-1] helpful=1 harmful=0 :: Go.", "## X", "stray"))
    assert [fault.place for fault in found.skipped] == ["line 1", "line 4"]
    assert [memory.content for memory in found.memories] == ["Go."]


@pytest.mark.parametrize(
    "line",
    [
        "[str-00003] helpful=x harmful=0 :: broken counts",
        "[str-00003] no counts",
        "[str-00003 helpful",
        "[a-1] :: no counts",
        "[a-1] helpful: 3, harmful: 0 :: other signs",
        "- [a-1] helpful=3 harmful=0 :: in a list",
        "a-1] helpful=3 harmful=0 :: no bracket",
    ],
)
def test_a_broken_bullet_is_named_and_joins_no_other(tmp_path: Path, line: str) -> None:
    bullets = (
        "[a-1] helpful=1 harmful=0 :: Go",
        "on.",
        line,
        "Its rest.",
        "[a-2] helpful=0 harmful=2 :: Stop.",
    )
    path = written(tmp_path, "p.txt", "## OTHERS", *bullets)
    found = read_foreign(path)
    assert found.format == "ace"
    assert [memory.content for memory in found.memories] == ["Go on.", "Stop."]
    assert [fault.place for fault in found.skipped] == ["line 4", "line 5"]
    assert "`[id] helpful=0 harmful=0 :: text`" in found.skipped[0].reason
    with pytest.raises(DataError, match="line 1: looks like a bullet and is none"):
        read_foreign(written(tmp_path, "broken.txt", line), "ace")


@pytest.mark.parametrize(
    "line",
    [
        "[ ] look",
        "[x] looked",
        "[the guide](https://x.io/a-1)",
        "[1] as said",
        "[sic]",
        "[0, 1,",
        '["a",',
        "[x for x in y",
        "[Note: this is long",
        "In Python write f(x, helpful=True)",
        "[derive] :: Debug",
        "[",
        "]",
    ],
)
def test_a_lesson_may_go_on_with_a_bracket(tmp_path: Path, line: str) -> None:
    found = read_ace(written(tmp_path, "p.txt", "[a-1] helpful=1 harmful=0 :: Go", line))
    assert [memory.content for memory in found.memories] == [f"Go {line}"]
    assert found.skipped == ()


@pytest.mark.parametrize("shape", [{"results": [MEM0]}, [MEM0], {"memories": [MEM0], "total": 1}, MEM0])
def test_mem0_results_lists_and_lines_read_the_same(tmp_path: Path, shape: Any) -> None:
    path = written(tmp_path, "mem0.json", shape)
    assert detect(path) == "mem0"
    [memory] = read_mem0(path).memories
    assert (memory.kind, memory.content, memory.when_to_use) == ("fact", "Is a vegetarian", "Is a vegetarian")
    assert memory.scope == Scope(user="alice", agent="cook")
    assert memory.privacy == "private"
    assert memory.created_at == datetime(2026, 1, 2, 11, 4, 5, tzinfo=UTC)
    assert memory.extras["mem0"]["categories"] == ["food"]
    assert memory.extras["mem0"]["metadata"] == {"mood": "calm"}


def test_what_a_session_told_mem0_is_for_nobody_else_and_what_expired_stays_out(tmp_path: Path) -> None:
    day = datetime.now(UTC).date()
    records = [
        {"id": "1", "memory": "The card ends in 4711", "run_id": "session-9"},
        {"id": "2", "memory": "On holiday", "user_id": "ann", "expiration_date": f"{day + timedelta(2)}"},
        {"id": "3", "memory": "In Rome", "user_id": "ann", "expiration_date": f"{day - timedelta(2)}"},
    ]
    found = read_mem0(written(tmp_path, "a.json", {"results": records}))
    assert [(m.scope.user, m.privacy) for m in found.memories] == [
        ("session-9", "private"),
        ("ann", "private"),
    ]
    assert [(each.place, each.reason) for each in found.skipped] == [
        ("results[2]", f"expired on {day - timedelta(2)}")
    ]
    assert found.memories[1].extras["expires_at"] == f"{day + timedelta(3)}T00:00:00+00:00"
    again = json.loads(dump_mem0(found.memories))["results"]
    assert again[1]["expiration_date"] == records[1]["expiration_date"]


def test_mem0_csv_keeps_quoted_texts_and_json_cells(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "mem0.csv",
        "id,memory,user_id,metadata,created_at",
        'a1,"Likes ""tea"",\nnot coffee",bob,"{""kind"": ""preference""}",2026-01-02T03:04:05Z',
        "a2,Short row",
    )
    assert detect(path) == "mem0"
    found = read_foreign(path)
    [memory] = found.memories
    assert (memory.content, memory.kind, memory.scope.user) == (
        'Likes "tea",\nnot coffee',
        "preference",
        "bob",
    )
    assert [(fault.place, "columns" in fault.reason) for fault in found.skipped] == [("line 4", True)]


def test_a_row_of_a_csv_that_cannot_be_read_costs_no_other_row(tmp_path: Path) -> None:
    rows = ["id,memory", "1,Likes tea", '2,"Likes" milk', "3,Likes water", '4,"Likes', 'rum" and ale']
    found = read_mem0(written(tmp_path, "mem0.csv", *rows, "5,Sings"))
    assert [memory.content for memory in found.memories] == ["Likes tea", "Likes water", "Sings"]
    assert [fault.place for fault in found.skipped] == ["line 3", "lines 5 to 6"]
    open_ = read_mem0(written(tmp_path, "open.csv", *rows[:2], '2,"Likes', "3,Likes water", "4,Sings"))
    assert [fault.place for fault in open_.skipped] == ["lines 3 to 5"]


@pytest.mark.parametrize(
    ("value", "content", "kind"),
    [
        ({"kind": "Memory", "content": {"content": "Likes tea."}}, "Likes tea.", "fact"),
        ({"kind": "UserPreference", "content": "Likes tea."}, "Likes tea.", "preference"),
        (
            {"kind": "Episode", "content": {"observation": "o", "result": "r"}},
            '{"observation":"o","result":"r"}',
            "insight",
        ),
        ({"text": "Likes tea."}, "Likes tea.", "fact"),
    ],
)
def test_store_items_of_langmem_and_langgraph_are_read(
    tmp_path: Path, value: Any, content: str, kind: str
) -> None:
    path = written(
        tmp_path, "items.jsonl", {**ITEM, "value": value}, {**ITEM, "namespace": ["org", "x", "y"]}
    )
    assert detect(path) == "langmem"
    first, second = read_langmem(path).memories
    assert (first.content, first.kind, first.scope, first.privacy) == (
        content,
        kind,
        Scope(user="memories.alice"),
        "private",
    )
    assert second.scope == Scope(user="org.x.y")


@pytest.mark.parametrize("form", [list, ".".join], ids=["labels", "dotted"])
@pytest.mark.parametrize(
    ("namespace", "user"),
    [
        (("memories",), "memories"),
        (("memories", "ann"), "memories.ann"),
        (("memories", "ann", "notes"), "memories.ann.notes"),
        (("users", "ann"), "users.ann"),
        (("email_assistant", "bob", "collection"), "email_assistant.bob.collection"),
        (("org",), "org"),
    ],
)
def test_what_lies_in_a_namespace_is_only_for_those_who_ask_with_it(
    tmp_path: Path, namespace: tuple[str, ...], user: str, form: Any
) -> None:
    [memory] = read_langmem(written(tmp_path, "a.json", [{**ITEM, "namespace": form(namespace)}])).memories
    assert memory.scope == Scope(user=user)
    assert memory.privacy == "private"
    assert memory.scope == scope_of(namespace, Scope())


@pytest.mark.parametrize("namespace", [[], "", None, 3, ["a.b"], ["a", ""], ["a\0"], {"a": 1}])
def test_an_item_of_no_namespace_is_skipped_and_opened_to_nobody(tmp_path: Path, namespace: object) -> None:
    found = read_langmem(written(tmp_path, "a.json", [{**ITEM, "namespace": namespace}, ITEM]))
    assert [fault.place for fault in found.skipped] == ["[0]"]
    assert len(found.memories) == 1


def test_a_label_that_is_no_text_never_widens_a_namespace(tmp_path: Path) -> None:
    items = [{**ITEM, "namespace": ["users", number]} for number in (1, 2)]
    found = read_langmem(written(tmp_path, "a.json", items)).memories
    assert [memory.scope.user for memory in found] == ["users.1", "users.2"]


@pytest.mark.parametrize(
    "value",
    [
        {"content": "Ann likes tea.", "n": [1, {"x": None}]},
        {"kind": "Memory", "content": {"memory": "Ann likes tea."}},
        {"drinks": "tea"},
    ],
)
def test_items_of_our_own_store_go_out_as_they_were_put(tmp_path: Path, value: dict[str, Any]) -> None:
    settings = {"memory": {"index": "exact", "embedder": "hashing"}, "plugins": {"auto": False}}
    with agentkd.Workspace(tmp_path / "shop", settings=settings) as shop:
        AgentkdStore(shop).put(("users", "ann"), "tea", value)
        [memory] = shop.ledger.memories.list()
    [line] = dump_langmem([memory]).splitlines()
    item = json.loads(line)
    assert (item["namespace"], item["key"], item["value"]) == (["users", "ann"], "tea", value)
    [back] = read_langmem(written(tmp_path, "a.jsonl", item)).memories
    assert (back.scope, back.privacy) == (memory.scope, "private")
    other = memory.model_copy(update={"content": "By hand."})  # no longer what was put
    assert json.loads(dump_langmem([other]))["value"]["content"]["content"] == "By hand."


def test_a_list_of_store_items_reads_as_their_lines_do(tmp_path: Path) -> None:
    lines = read_foreign(written(tmp_path, "a.jsonl", ITEM, ITEM))
    listed = read_foreign(written(tmp_path, "a.json", [ITEM, ITEM]))
    assert listed.places == ("[0]", "[1]")
    assert listed.memories == lines.memories


def test_a_mem0_export_is_written_as_it_was_read(tmp_path: Path) -> None:
    records = [
        {**MEM0, "hash": hashlib.md5(MEM0["memory"].encode()).hexdigest()},
        {"id": "2", "memory": "Pays late", "hash": hashlib.md5(b"Pays late").hexdigest(), "metadata": None},
        {
            "id": "3",
            "memory": "x y",
            "hash": hashlib.md5(b"x y").hexdigest(),
            "run_id": "r",
            "actor_id": "bob",
        },
    ]
    path = written(tmp_path, "a.json", {"results": records})
    assert json.loads(dump_mem0(read_mem0(path).memories)) == {"results": records}


def test_items_of_a_real_langgraph_store_go_both_ways(tmp_path: Path) -> None:
    from langgraph.store.memory import InMemoryStore

    store = InMemoryStore()
    store.put(("memories", "alice"), "a", {"kind": "Memory", "content": {"content": "Likes tea."}})
    store.put(("shop", "eu", "rules"), "b", {"rule": "Ask first.", "n": [1, {"x": None}]})
    items = [item.dict() for item in (*store.search(("memories",)), *store.search(("shop",)))]
    back = dump_langmem(read_langmem(written(tmp_path, "a.json", items)).memories)
    assert [json.loads(line) for line in back.splitlines()] == items
    fresh = Memory(id="mem-1", kind="pitfall", when_to_use="a cart is empty", content="say so")
    [line] = dump_langmem([fresh]).splitlines()
    item = json.loads(line)
    store.put(tuple(item["namespace"]), item["key"], item["value"])
    held = store.get(("memories",), "mem-1")
    assert held is not None
    [again] = read_langmem(written(tmp_path, "b.jsonl", held.dict())).memories
    assert (again.kind, again.when_to_use, again.content) == ("pitfall", "a cart is empty", "say so")


def test_any_skill_is_one_memory_found_by_its_description(tmp_path: Path) -> None:
    for name in ("pay-bills", "send-mail"):
        (tmp_path / name).mkdir()
        text = f"---\nname: {name}\ndescription: How to {name}.\n---\n# Steps\n\nFirst look."
        (tmp_path / name / "SKILL.md").write_text(text, encoding="utf-8")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "SKILL.md").write_text("no front matter", encoding="utf-8")
    found = read_foreign(tmp_path)
    assert [(m.when_to_use, m.content) for m in found.memories] == [
        ("How to pay-bills.", "# Steps\n\nFirst look."),
        ("How to send-mail.", "# Steps\n\nFirst look."),
    ]
    assert "broken" in found.skipped[0].reason
    for place in (tmp_path / "pay-bills", tmp_path / "pay-bills" / "SKILL.md"):
        assert [memory.id for memory in read_skills(place).memories] == [found.memories[0].id]


def skill_of(folder: Path, body: str, description: str = "How to handle refunds.") -> Path:
    folder.mkdir()
    (folder / "SKILL.md").write_text(f"---\nname: {folder.name}\ndescription: {description}\n---\n{body}")
    return folder


def test_a_long_skill_becomes_memories_that_are_each_shown_with_their_lines(
    tmp_path: Path, store: MemoryStore, ledger: Ledger
) -> None:
    code = "```sh\n# no heading\nrefund --all\n```"
    days = [f"# Refunds\n\n## Windows ##\n\n{'Look up the receipt first. ' * 90}", f"## Tools\n\n{code}"]
    body = "\n\n".join([*days, "### By mail\n\n- stamp it\n- send it", f"## Fees\n\n{'Ask. ' * 700}"])
    found = read_skills(skill_of(tmp_path / "refunds", body))
    assert [memory.when_to_use for memory in found.memories] == [
        "How to handle refunds. (Refunds > Windows)",
        "How to handle refunds. (Refunds > Tools)",
        "How to handle refunds. (Refunds > Fees)",
    ]
    admit_imported(found, store, ledger)
    for memory in ledger.memories.list():
        assert store.fitting([Hit(memory=memory, score=1.0)])
    [tools] = [memory for memory in ledger.memories.list() if "Tools" in memory.when_to_use]
    assert tools.content == f"## Tools\n\n{code}\n\n### By mail\n\n- stamp it\n- send it"
    shown = store.render([Hit(memory=tools, score=1.0)])
    assert "\n  # no heading\n  refund --all\n" in shown
    assert "\n  - stamp it\n  - send it\n" in shown


def test_a_part_of_a_skill_that_cannot_be_shown_is_skipped_with_its_length(tmp_path: Path) -> None:
    body = f"Be polite.\n\n# Long\n\n{'x' * 5000}\n\n# Short\n\nAsk first."
    found = read_skills(skill_of(tmp_path / "refunds", body))
    assert [memory.content for memory in found.memories] == ["Be polite.", "# Short\n\nAsk first."]
    [fault] = found.skipped
    assert fault.place.endswith("SKILL.md, `Long`")
    assert "5008 characters long" in fault.reason
    with pytest.raises(DataError, match="6000 characters long"):
        read_skills(skill_of(tmp_path / "one-piece", "y" * 6000))


@given(
    st.lists(
        st.sampled_from(["# A", "## B", "### C #", "text", "```", "#", "", "#no", "x" * 40]), max_size=14
    )
)
def test_the_parts_of_a_text_hold_all_of_its_lines_once(lines: list[str]) -> None:
    parts = parts_of("\n".join(lines), lambda part: len(part.text) < 60)
    said = [line for part in parts for line in part.text.split("\n") if line and not line.startswith("#")]
    assert said == [line for line in lines if line and not line.startswith("#")]


def test_bad_lines_are_named_and_the_others_are_kept(tmp_path: Path) -> None:
    bad = [
        "{",
        '{"memory_type": "task"}',
        '{"memory_type": "task", "content": 7}',
        '{"content": "x"}',
        "[]",
        "3",
        '{"memory_type": "task", "content": "x", "score": NaN}',
        "[" * 100_000,
    ]
    found = read_reme(written(tmp_path, "a.jsonl", REME, *bad, REME))
    assert len(found.memories) == 2
    assert [fault.place for fault in found.skipped] == [f"line {n}" for n in range(2, 10)]
    reasons = " | ".join(fault.reason for fault in found.skipped)
    for said in (
        "is not JSON",
        "has no text",
        "`content` is a number",
        "no `memory_type`",
        "`NaN`",
        "deeply",
    ):
        assert said in reasons


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        '{"memory_type": "task",',
        json.dumps(REME)[:90],
        json.dumps(REME)[90:],
        "INFO: 2 entries",
        "[]",
        "3",
        '{"memory_type": "task", "content": "x", "score": NaN}',
        json.dumps({**REME, "content": "x" * 300_000}),
        '{"score": ' + "9" * 5000 + "}",
        "[" * 100_000,
    ],
)
@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize("format_", ["", "reme"])
def test_a_bad_first_line_is_skipped_as_any_other(tmp_path: Path, format_: str, place: int, bad: str) -> None:
    lines = [bad, REME] if place == 1 else [REME, bad]
    found = read_foreign(written(tmp_path, "a.jsonl", *lines), format_)
    assert (found.format, len(found.memories)) == ("reme", 1)
    assert [fault.place for fault in found.skipped] == [f"line {place}"]


@pytest.mark.parametrize(("format_", "good"), [("mem0", MEM0), ("langmem", ITEM)])
@pytest.mark.parametrize("cut", [slice(40), slice(40, None)])
def test_a_first_line_that_was_cut_hides_no_other(
    tmp_path: Path, format_: str, good: dict[str, Any], cut: slice
) -> None:
    path = written(tmp_path, "a.jsonl", json.dumps(good)[cut], good)
    for name in ("", format_):
        found = read_foreign(path, name)
        assert (found.format, found.places) == (format_, ("line 2",))
        assert [fault.place for fault in found.skipped] == ["line 1"]


@pytest.mark.parametrize(
    ("format_", "whole"),
    [
        ("mem0", json.dumps({"results": [MEM0, MEM0]}, indent=2)),
        ("mem0", json.dumps([MEM0, MEM0])),
        ("mem0", f"[\n{json.dumps(MEM0)},\n{json.dumps(MEM0)}\n]"),
        ("langmem", json.dumps({"items": [ITEM, ITEM]}, indent=1)),
        ("ace", json.dumps({"bullets": [{"id": "a", "content": "Stop."}, {}]}, indent=1)),
    ],
)
def test_a_file_that_was_cut_off_is_called_so_at_the_place(tmp_path: Path, format_: str, whole: str) -> None:
    for end in range(len(whole) * 2 // 3, len(whole)):
        if whole[end - 1] in "nul":  # a piece of `null` is a wrong word to the parser, not a cut one
            continue
        path = written(tmp_path, "a.json", whole[:end])
        said = set()
        for name in ("", format_):
            with pytest.raises(
                DataError, match=r"line \d+, column \d+: is not JSON: .*\(was the file cut"
            ) as caught:
                read_foreign(path, name)
            said.add(str(caught.value))
        assert len(said) == 1


def test_a_fault_of_json_is_told_in_whole_sentences(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", '{"results": [', '{"memory": "no', 'end"}]}')
    with pytest.raises(DataError, match=r"line 2, column 15: is not JSON: Invalid control character \(mend"):
        read_foreign(path)
    found = read_reme(written(tmp_path, "a.jsonl", REME, '{"content": "x'))
    assert [fault.reason for fault in found.skipped] == ["is not JSON: Unterminated string (column 13)"]


def test_an_empty_list_is_no_fault_of_a_named_format(tmp_path: Path) -> None:
    path = written(tmp_path, "a", "[ \n]\n")
    for name in ("reme", "mem0", "langmem"):
        assert (read_foreign(path, name).memories, read_foreign(path, name).skipped) == ((), ())
    with pytest.raises(DataError, match="is an empty list"):
        read_foreign(path)


@pytest.mark.parametrize("where", ["{}", '{{"results": {}}}'])
@pytest.mark.parametrize("format_", ["", "mem0"])
def test_a_list_of_a_line_each_that_is_broken_early_is_no_list_of_lines(
    tmp_path: Path, format_: str, where: str
) -> None:
    lines = [json.dumps({**MEM0, "id": str(n)}) for n in range(6)]
    lines[0] = lines[0][:20]
    path = written(tmp_path, "a.json", where.format("[\n" + ",\n".join(lines) + "\n]"))
    with pytest.raises(DataError, match="line 2, column 21: is not JSON"):
        read_foreign(path, format_)


@pytest.mark.parametrize("text", ["", " \n\n", "\ufeff"])
@pytest.mark.parametrize("format_", ["", "reme", "ace", "mem0", "langmem"])
def test_an_empty_file_is_called_empty(tmp_path: Path, format_: str, text: str) -> None:
    with pytest.raises(DataError, match=r"`.*a` is empty: it holds no entry"):
        read_foreign(written(tmp_path, "a", text), format_)


def test_a_file_of_which_nothing_can_be_read_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", {"memory_type": "task"})
    with pytest.raises(DataError, match="line 1: has no text") as caught:
        read_reme(path)
    assert caught.value.context == {"path": str(path), "line": "line 1"}
    binary = tmp_path / "b.jsonl"
    binary.write_bytes(b'{"a": 1}\n\xff\xfe')
    with pytest.raises(DataError, match="line 2: is not UTF-8"):
        read_mem0(binary)
    with pytest.raises(DataError, match="cannot be read"):
        read_ace(tmp_path / "nothing")


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    chat = '[{"role": "user", "content": "hi", "id": "1"}]'
    ours = Memory(id="mem-1", kind="fact", when_to_use="w", content="c").model_dump_json()
    for text in ("hello", "[str-1] no counts", '{"a": 1}', "[[]]", "a,b\n1,2", chat, ours):
        with pytest.raises(DataError, match=r"known formats: pack, reme, ace, mem0, langmem, skill"):
            detect(written(tmp_path, "a", text))
    with pytest.raises(DataError, match="folder without skills"):
        detect(tmp_path)
    with pytest.raises(ConfigError, match="`mem1`"):
        read_foreign(tmp_path, "mem1")


def test_text_that_no_database_keeps_is_made_storable(tmp_path: Path) -> None:
    line = '{"id": "1", "memory": "half \\ud800 and nul \\u0000 here"}'
    assert (
        read_mem0(written(tmp_path, "a.json", line)).memories[0].content == "half \ufffd and nul \ufffd here"
    )


@pytest.mark.parametrize("metadata", [None, 3, "text", ["freq"]])
def test_a_reme_record_may_have_metadata_of_any_shape(tmp_path: Path, metadata: object) -> None:
    record = {"memory_type": "task", "content": "Ask first.", "metadata": metadata}
    (tmp_path / "library.jsonl").write_text(json.dumps(record), encoding="utf-8")
    imported = read_foreign(tmp_path / "library.jsonl", "reme")
    assert imported.memories[0].content == "Ask first."
    assert not imported.counts_use
