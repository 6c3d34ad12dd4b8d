"""Memories come in, are looked over, and go out by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentkd.interop import read_foreign
from agentkd.schema import Task
from agentkd.tools import read_skill
from agentkd.workspace import Workspace

from .conftest import Cli

SETTINGS = """\
[memory]
embedder = "hashing"
index = "exact"
min_score = 0.05
merge_above = 0.92

[plugins]
auto = false
"""
REFUNDS = ("red shoes", "green shoes", "blue shoes", "black shoes")


def reme(when: str, content: str, **metadata: object) -> str:
    return json.dumps({"memory_type": "task", "when_to_use": when, "content": content, "metadata": metadata})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "agentkd.toml").write_text(SETTINGS, encoding="utf-8")
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Path:
    lines = [
        reme(f"the user asks for a refund of {thing}", f"Ask when the {thing} arrived.", freq=0)
        for thing in REFUNDS
    ]
    path = tmp_path / "library.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_an_import_is_stored_once_and_recalled(cli: Cli, root: Path, library: Path) -> None:
    dry = cli("-C", root, "memory", "import", library, "--dry-run", "--json").json
    assert (dry["outcomes"], dry["is_dry"], dry["format"]) == ({"new": 4}, True, "reme")
    assert cli("-C", root, "memory", "list", "--json").json == []
    first = cli("-C", root, "memory", "import", library, "--app", "shop", "--json")
    assert (first.code, first.json["outcomes"]) == (0, {"stored": 4})
    again = cli("-C", root, "memory", "import", library, "--app", "shop")
    assert again.code == 0
    assert "merged" in again.out
    assert len(cli("-C", root, "memory", "list", "--json").json) == 4
    hits = cli("-C", root, "memory", "recall", "refund of red shoes", "--app", "shop", "--json").json
    assert "red shoes" in hits[0]["memory"]["content"]


def test_scope_options_and_quarantine_reach_the_store(cli: Cli, root: Path, library: Path) -> None:
    options = ("--app", "shop", "--agent", "clerk", "--user", "alice", "--tenant", "acme", "--quarantine")
    cli("-C", root, "memory", "import", library, *options, "--format", "reme")
    found = cli("-C", root, "memory", "list", "--json").json
    assert {m["status"] for m in found} == {"quarantined"}
    assert found[0]["scope"] == {"app": "shop", "agent": "clerk", "user": "alice", "tenant": "acme"}
    assert found[0]["privacy"] == "private"


def test_memories_of_several_scopes_are_told_apart(cli: Cli, root: Path, library: Path) -> None:
    for user in ("ann", "bob"):
        cli("-C", root, "memory", "import", library, "--user", user)
    listed = cli("-C", root, "memory", "list").out
    assert (listed.count("user=ann"), listed.count("user=bob")) == (4, 4)
    of_ann = cli("-C", root, "memory", "list", "--user", "ann", "-n", 3, "--json")
    assert {memory["scope"]["user"] for memory in of_ann.json} == {"ann"}
    assert of_ann.err.startswith("the newest 3 of 4 ")
    assert cli("-C", root, "memory", "list", "--user", "eve").out == "no memory fits these options\n"


def test_an_empty_recall_says_which_scope_was_searched(cli: Cli, root: Path, library: Path) -> None:
    ask = ("-C", root, "memory", "recall", "refund of red shoes")
    assert cli(*ask).out == "there is nothing to recall yet\n"
    cli("-C", root, "memory", "import", library, "--user", "ann")
    assert cli(*ask).out.startswith("the empty scope sees no memory; 4 more in other scopes: --user")
    as_bob = cli(*ask, "--user", "bob", "--json")
    assert as_bob.json == []
    assert as_bob.err.startswith("the scope `user=bob` sees no memory; 4 more in other scopes")
    assert {hit["memory"]["scope"]["user"] for hit in cli(*ask, "--user", "ann", "--json").json} == {"ann"}
    far = cli("-C", root, "memory", "recall", "zzz", "--user", "ann", "--set", "memory.min_score=0.99")
    assert "among the memories that the scope `user=ann` sees (4)\n" in far.out
    assert cli(*ask, "--user", "ann", "--at", "0s", "--json").json
    assert "there is nothing" in cli(*ask, "--user", "ann", "--at", "2020-01-01").out


def test_an_entry_that_cannot_be_read_is_named_and_the_code_is_1(cli: Cli, root: Path, library: Path) -> None:
    with library.open("a", encoding="utf-8") as file:
        file.write("\n{broken\n")
    done = cli("-C", root, "memory", "import", library)
    assert done.code == 1
    assert "line 5" in done.out
    assert len(cli("-C", root, "memory", "list", "--json").json) == 4
    nothing = cli("-C", root, "memory", "import", library, "--format", "ace")
    assert nothing.code == 3
    assert "not one entry could be read as `ace`" in nothing.err


@pytest.mark.parametrize("format_", ["pack", "reme", "ace", "mem0", "langmem", "skill"])
def test_every_format_goes_out(cli: Cli, root: Path, library: Path, tmp_path: Path, format_: str) -> None:
    cli("-C", root, "memory", "import", library, "--app", "shop")
    out = tmp_path / "out"
    done = cli("-C", root, "memory", "export", out, "--format", format_, "--json")
    assert (done.code, done.json["n"]) == (0, 4)
    assert len(read_foreign(out).memories) == 4
    assert cli("-C", root, "memory", "export", out, "--format", format_).code == 2
    assert cli("-C", root, "memory", "export", out, "--format", format_, "--force").code == 0


def test_an_export_takes_what_its_options_name(cli: Cli, root: Path, library: Path, tmp_path: Path) -> None:
    cli("-C", root, "memory", "import", library, "--app", "shop")
    cli("-C", root, "memory", "import", library, "--user", "alice")
    first = cli("-C", root, "memory", "list", "--json").json[0]["id"]
    cli("-C", root, "memory", "revoke", first, "wrong")
    out = tmp_path / "out.zip"

    def n(*options: str) -> int:
        return cli("-C", root, "memory", "export", out, "--force", *options, "--json").json["n"]

    assert (
        n(),
        n("--status", "revoked"),
        n("--app", "shop"),
        n("--user", "alice"),
        n("--kind", "insight"),
    ) == (
        7,
        1,
        3,
        4,
        7,
    )
    none = cli("-C", root, "memory", "export", out, "--force", "--kind", "pitfall")
    assert none.code == 3
    assert "no memory fits" in none.err
    skill = cli("-C", root, "memory", "export", tmp_path / "skill", "--format", "skill", "--json").json
    assert (skill["n"], skill["left_out"]) == (3, {"private": 4})


def test_a_playbook_holds_what_is_for_all_or_whose_owner_was_named(
    cli: Cli, root: Path, library: Path, tmp_path: Path
) -> None:
    for options in (("--app", "shop"), ("--user", "alice"), ("--tenant", "acme"), ("--agent", "clerk")):
        cli("-C", root, "memory", "import", library, *options)

    def export(*options: str, format_: str = "ace"):
        return cli("-C", root, "memory", "export", tmp_path / "out", "--format", format_, "--force", *options)

    said = export()
    assert said.code == 0
    assert "4 memories written" in said.out
    assert "12 memories left out" in said.err
    assert "4 of one agent, 4 of one tenant, 4 private" in said.err
    for options in (("--user", "alice"), ("--tenant", "acme"), ("--agent", "clerk")):
        assert export(*options, "--json").json["n"] == 4
    assert export("--json", format_="mem0").json["n"] == 16
    none = export("--user", "alice", "--kind", "insight", format_="skill")
    assert none.code == 3
    assert "can hold none of these memories: 4 private" in none.err


def test_a_pack_moves_a_workspace_with_its_evidence(cli: Cli, shop: Path, root: Path, tmp_path: Path) -> None:
    pack = tmp_path / "shop.zip"
    assert cli("-C", shop, "memory", "export", pack, "--evidence").code == 0
    without = cli("-C", root, "memory", "import", pack, "--json")
    assert (without.code, without.json["outcomes"]) == (0, {"stored": 12})
    assert cli("-C", root, "runs", "list", "--json").json == []
    assert cli("-C", root, "memory", "import", pack, "--evidence").code == 0
    with Workspace(shop) as there, Workspace(root) as here:
        theirs, ours = there.ledger.memories.list(), here.ledger.memories.list()
        assert [(m.id, m.kind, m.calls, m.scope) for m in ours] == [
            (m.id, m.kind, m.calls, m.scope) for m in theirs
        ]
        runs = [here.ledger.trajectories.get_many(m.evidence.trajectories) for m in ours]
        brought = [there.ledger.trajectories.get_many(m.evidence.trajectories) for m in theirs]
        assert [[t.task for t in found] for found in runs] == [[t.task for t in found] for found in brought]
        assert {m.support for m in ours} == {1}


def test_an_audit_of_a_foreign_file_needs_no_workspace(
    cli: Cli, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hashing = ("--set", "memory.embedder=hashing")
    found = cli("memory", "audit", library, "--json", *hashing).json
    assert (found["n"], found["exact_copies"], len(found["never_recalled"])) == (4, [], 4)
    clean = cli("memory", "audit", library, *hashing)
    assert clean.code == 0
    assert "near copies 0.80" in clean.out
    secret = "ghp_" + "a1B2" * 9
    with library.open("a", encoding="utf-8") as file:
        file.write("\n" + reme("the user logs in", f"Use {secret} for it."))
    dirty = cli("memory", "audit", library, *hashing)
    assert dirty.code == 1
    assert "line 5" in dirty.out
    assert secret not in dirty.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["library.jsonl"]


def test_an_audit_of_the_workspace_tells_rates_and_is_sound(cli: Cli, root: Path, library: Path) -> None:
    cli("-C", root, "memory", "import", library)
    found = cli("-C", root, "memory", "audit", "--json")
    assert found.code == 0
    assert found.json["n_vectors"] == found.json["n_vectors_expected"] == 4
    assert [rate["threshold"] for rate in found.json["duplicates"]] == [0.92, 0.8]


def test_an_exported_skill_is_found_by_the_agents_of_the_workspace(
    cli: Cli, root: Path, library: Path
) -> None:
    cli("-C", root, "memory", "import", library, "--app", "shop")
    assert cli("-C", root, "skills", "list").out.strip() == "no skills yet"
    weak = cli("-C", root, "skills", "export")
    assert weak.code == 1
    assert "0 strong memories" in weak.err
    options = ("--min-support", 0, "--alike", 0.3)
    assert cli("-C", root, "skills", "export", *options, "--dry-run").code == 0
    assert list((root / "skills").glob("*")) == []
    assert cli("-C", root, "skills", "export", *options, "--topic-min", 5).code == 1
    topics = cli("-C", root, "skills", "export", *options, "--json").json
    assert [len(topic["memories"]) for topic in topics] == [4]
    listed = cli("-C", root, "skills", "list", "--json").json
    assert [(row["name"], row["n_memories"], row["taken_back"]) for row in listed] == [
        (topics[0]["name"], 4, [])
    ]
    with Workspace(root) as workspace:
        skills = workspace.parts.skills()
        assert skills.names == [topics[0]["name"]]
        assert "Ask when the red shoes arrived." in skills.read(skills.names[0])
        task = Task(id="t", suite="s", prompt="Refund, please.")
        system = workspace.parts.views().prompt(task, tools=[read_skill(skills).spec])[0].content
        assert f"- {skills.names[0]}: Lessons about " in system


def test_a_skill_that_teaches_what_was_taken_back_is_named_and_pruned(
    cli: Cli, root: Path, library: Path
) -> None:
    cli("-C", root, "memory", "import", library)
    options = ("--min-support", 0, "--alike", 0.3, "--prune")
    cli("-C", root, "skills", "export", *options)
    assert cli("-C", root, "skills", "list").code == 0
    wrong = cli("-C", root, "memory", "list", "--json").json[0]["id"]
    cli("-C", root, "memory", "revoke", wrong, "it was wrong")
    stale = cli("-C", root, "skills", "list", "--json")
    assert stale.code == 1
    assert stale.json[0]["taken_back"] == [wrong]
    assert "taken back" in stale.err
    assert cli("-C", root, "skills", "export", *options).code == 0
    after = cli("-C", root, "skills", "list", "--json")
    assert (after.code, after.json[0]["n_memories"], after.json[0]["taken_back"]) == (0, 3, [])
    assert len(after.json) == 1
