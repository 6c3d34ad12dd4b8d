"""What happened to a memory, what changed in the pool, and how a person takes it back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agentkd.ledger import Ledger
from agentkd.schema import now

from .conftest import Cli


@pytest.fixture
def merged(shop: Path, cli: Cli, tmp_path: Path) -> tuple[Path, str, str, str]:
    """A copy of a workspace where one memory took another in; with a time before that."""
    import shutil

    root = tmp_path / "shop"
    shutil.copytree(shop, root)
    first, second = cli("-C", root, "memory", "list", "--json").json[:2]
    time.sleep(0.01)
    before = now().isoformat()
    time.sleep(0.01)
    with Ledger.open(root / "ledger.db") as ledger:
        ledger.memories.replace(
            [first["id"], second["id"]], ledger.memories.get(first["id"]), "merge: they say the same"
        )
    return root, first["id"], second["id"], before


def test_history_shows_versions_events_and_use(cli: Cli, merged: tuple[Path, str, str, str]) -> None:
    root, first, second, _ = merged
    found = cli("-C", root, "memory", "history", second, "--json").json
    assert {m["id"] for m in found["versions"]} == {first, second}
    assert [e["kind"] for e in found["events"]].count("united") == 1
    text = cli("-C", root, "memory", "history", second)
    assert "they say the same" in " ".join(text.out.split())
    assert "shown to 0 runs" in text.out
    assert found["replaced"] == {second: first}
    for command in ("show", "history"):
        shown = "".join(cli("-C", root, "memory", command, second).out.split())
        assert f"replacedby{first}" in shown
    assert cli("-C", root, "memory", "show", second, "--json").json["replaced_by"] == first
    assert cli("-C", root, "memory", "history", "mem-none").code == 6


def test_diff_compares_two_memories_or_two_times(cli: Cli, merged: tuple[Path, str, str, str]) -> None:
    root, first, second, before = merged
    fields = {c["field"] for c in cli("-C", root, "memory", "diff", first, second, "--json").json["changes"]}
    assert {"id", "when_to_use", "content"} <= fields
    change = cli("-C", root, "memory", "diff", "--since", before, "--json").json
    assert change["counts"] == {"united": 1, "superseded": 1}
    assert change["n_before"] - change["n_after"] == 1
    assert "1 united" in cli("-C", root, "memory", "diff", "--since", "1h").out
    assert cli("-C", root, "memory", "diff", first).code == 2
    assert cli("-C", root, "memory", "diff", "--since", "yesterdayish").code == 2
    assert cli("-C", root, "memory", "diff", "--since", "99999999999d").code == 2
    reversed_ = cli("-C", root, "memory", "diff", "--since", "1h", "--until", "2h")
    assert reversed_.code == 2
    assert "--since has to be before --until" in reversed_.err


def test_the_past_is_listed_shown_and_recalled(cli: Cli, merged: tuple[Path, str, str, str]) -> None:
    root, _first, second, before = merged
    now_ = {m["id"] for m in cli("-C", root, "memory", "list", "--json").json}
    then = {m["id"] for m in cli("-C", root, "memory", "list", "--at", before, "--json").json}
    assert then - now_ == {second}
    shown = cli("-C", root, "memory", "show", second, "--at", before, "--json").json
    assert shown["id"] == second
    assert cli("-C", root, "memory", "show", second, "--at", "2020-01-01").code == 6
    command = ("-C", root, "memory", "recall", shown["when_to_use"], "--app", "jsonl", "-k", "20", "--json")
    assert second in {h["memory"]["id"] for h in cli(*command, "--at", before).json}
    assert second not in {h["memory"]["id"] for h in cli(*command).json}


def test_a_person_undoes_quarantines_and_activates(cli: Cli, merged: tuple[Path, str, str, str]) -> None:
    root, first, second, _ = merged
    done = cli("-C", root, "memory", "undo", second, "they differ", "--json").json
    assert set(done["changed"]) == {first, second}
    assert second in {m["id"] for m in cli("-C", root, "memory", "list", "--json").json}
    assert "quarantined" in cli("-C", root, "memory", "quarantine", second, "odd").out
    assert cli("-C", root, "memory", "list", "--status", "quarantined", "--json").json[0]["id"] == second
    assert f"`agentkd memory activate {second} REASON`" in cli("-C", root, "memory", "admit", second).out
    assert cli("-C", root, "memory", "activate", second, "fine", "--json").json["changed"]
    assert cli("-C", root, "memory", "admit", second).out == f"{second}: did not wait for admission\n"
    assert "was active before" in cli("-C", root, "memory", "activate", second, "fine").out
    assert "person: fine" in cli("-C", root, "memory", "history", second, "--json").out
    assert cli("-C", root, "memory", "undo", "mem-none").code == 6


def test_a_revoked_memory_stays_revoked(cli: Cli, merged: tuple[Path, str, str, str]) -> None:
    root, first, _second, _ = merged
    assert cli("-C", root, "memory", "revoke", first, "poison").code == 0
    for verb in ("quarantine", "activate", "undo"):
        refused = cli("-C", root, "memory", verb, first, "again")
        assert refused.code == 3
        assert "for good" in refused.err
    assert cli("-C", root, "memory", "show", first, "--json").json["status"] == "revoked"


def test_refining_says_what_changed_and_can_be_undone(cli: Cli, shop: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "shop"
    shutil.copytree(shop, root)
    aged = ("-C", root, "--set", "refiner.ttl.days=1e-9", "--set", 'refiner.ttl.kinds=["case"]')
    cases = {m["id"] for m in cli("-C", root, "memory", "list", "--kind", "case", "--json").json}
    edits = cli(*aged, "memory", "refine", "ttl", "--json").json
    assert {edit["memory_id"] for edit in edits} == cases
    assert {edit["status"] for edit in edits} == {"quarantined"}
    assert cli(*aged, "memory", "undo", edits[0]["memory_id"]).code == 0
    assert "nothing to change" in cli(*aged, "memory", "refine", "ttl").out
    assert cli("-C", root, "memory", "refine", "nobody").code != 0
