"""The commands on a workspace: each prints its value, as a table or as JSON and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Cli


def test_init_makes_a_workspace_once(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "new"
    made = cli("init", root, "--suite", "jsonl")
    assert made.code == 0
    assert "agentkd cycle" in made.err
    assert 'suite = "jsonl"' in (root / "agentkd.toml").read_text()
    again = cli("init", root)
    assert again.code == 2
    assert "exists already" in again.err
    assert cli("init", root, "--force", "--json").json["workspace"] == str(root)


def test_a_second_run_finds_all_done(cli: Cli, shop: Path) -> None:
    done = cli("-C", shop, "run", "-n", "12", "--json")
    assert done.code == 0
    assert (done.json["n"], done.json["done_before"], done.json["succeeded"]) == (12, 12, 0)
    text = cli("-C", shop, "run", "-n", "12")
    assert "0 of 12 tasks done (12 were done before)" in text.out
    assert text.err.startswith("about ")
    assert "tokens read" in text.err


def test_quiet_prints_the_result_alone(cli: Cli, shop: Path) -> None:
    done = cli("-C", shop, "run", "-n", "12", "--quiet")
    assert "0 of 12" in done.out
    assert done.err == ""


def test_runs_are_listed_and_shown(cli: Cli, shop: Path) -> None:
    runs = cli("-C", shop, "runs", "list", "--json").json
    assert [(r["suite"], r["n_finished"]) for r in runs] == [("jsonl", 12)]
    shown = cli("-C", shop, "runs", "show", runs[0]["run_id"], "--failed", "-n", "3")
    assert shown.out.count("tra-") == 3
    trajectory = cli("-C", shop, "runs", "show", runs[0]["run_id"], "--json").json[0]
    one = cli("-C", shop, "runs", "show", trajectory["id"])
    assert "set_lamp {'colour': 'red'}" in one.out
    assert trajectory["task"]["prompt"] in one.out
    unknown = cli("-C", shop, "runs", "show", "run-nothing")
    assert unknown.code == 6
    assert "neither a run nor a trajectory is called `run-nothing`" in unknown.err


def test_a_run_says_how_many_trajectories_it_does_not_show(cli: Cli, shop: Path) -> None:
    run = runs_of(cli, shop)
    trajectories = cli("-C", shop, "runs", "show", run, "-n", 0, "--json")
    assert (len(trajectories.json), trajectories.err) == (12, "")
    failed = cli("-C", shop, "runs", "show", run, "--failed", "-n", 2, "--json")
    assert failed.json == trajectories.json[-2:]
    assert failed.err.startswith("the newest 2 of 12 ")
    assert cli("-C", shop, "-q", "runs", "show", run, "-n", 2).err == ""
    assert cli("-C", shop, "runs", "corrections", "-n", 1).err == ""


def test_memories_are_listed_recalled_audited_and_rebuilt(cli: Cli, shop: Path) -> None:
    memories = cli("-C", shop, "memory", "list", "--kind", "case", "--json").json
    assert len(memories) == 12
    revoked = cli("-C", shop, "memory", "list", "--status", "revoked")
    assert revoked.out.strip() == "no memory fits these options"
    first = memories[0]
    shown = cli("-C", shop, "memory", "show", first["id"])
    assert first["id"] in shown.out
    assert "blue" in shown.out
    hits = cli("-C", shop, "memory", "recall", first["when_to_use"], "--app", "jsonl", "-k", 2, "--json").json
    assert hits[0]["memory"]["id"] == first["id"]
    assert len(hits) == 2
    assert cli("-C", shop, "memory", "history", first["id"], "--json").json["versions"][0]["version"] == 1
    assert "index rebuilt from" in cli("-C", shop, "memory", "rebuild").out
    audit = cli("-C", shop, "memory", "audit")
    assert audit.code == 0
    assert "12" in audit.out
    assert cli("-C", shop, "memory", "show", "mem-nothing").code == 6


def test_a_list_of_memories_shows_the_newest_and_says_how_many_it_hides(cli: Cli, shop: Path) -> None:
    every = cli("-C", shop, "memory", "list", "-n", 0, "--json")
    assert every.err == ""
    ids = [memory["id"] for memory in every.json]
    some = cli("-C", shop, "memory", "list", "--kind", "case", "-n", 5, "--json")
    assert [memory["id"] for memory in some.json] == [
        memory["id"] for memory in every.json if memory["kind"] == "case"
    ][-5:]
    assert some.err.strip() == "the newest 5 of 12 are shown: `-n 0` shows all"
    later = cli("-C", shop, "memory", "list", "-n", 1, "--at", "0s", "--json")
    assert [memory["id"] for memory in later.json] == ids[-1:]
    assert later.err.startswith(f"the newest 1 of {len(ids)} ")


def test_an_empty_list_says_why(cli: Cli, shop: Path) -> None:
    unknown = cli("-C", shop, "memory", "list", "--kind", "nonsense")
    assert unknown.code == 0
    assert unknown.out.startswith("no memory is of kind `nonsense`; there are `case`")
    assert (
        cli("-C", shop, "memory", "list", "--at", "2020-01-01").out == "no memories at 2020-01-01 00:00 UTC\n"
    )


def test_datasets_show_the_trained_tokens(cli: Cli, shop: Path) -> None:
    cards = cli("-C", shop, "datasets", "list", "--json").json
    assert cards[0]["n_train"] > 0
    shown = cli("-C", shop, "datasets", "show", "-n", 1)
    assert '⟦{"name": "set_lamp", "arguments": {"colour": "blue"}}<|im_end|>⟧' in shown.out.replace("\n", "")
    rows = cli("-C", shop, "datasets", "show", cards[0]["id"], "-n", 2, "--json").json["rows"]
    assert len(rows) == 2
    unknown = cli("-C", shop, "datasets", "show", "dat-nothing")
    assert unknown.code == 6
    assert "no dataset is called `dat-nothing`" in unknown.err


def test_lineage_goes_both_ways(cli: Cli, shop: Path) -> None:
    memory = cli("-C", shop, "memory", "list", "--json").json[0]["id"]
    text = cli("-C", shop, "lineage", memory)
    assert "made from (1 correction, 1 trajectory)" in text.out
    assert "made of it (" in text.out
    assert "1 row" in text.out
    graphs = cli("-C", shop, "lineage", memory, "--json").json
    assert {node["kind"] for node in graphs["down"]["nodes"]} == {"memory", "correction", "trajectory"}
    assert cli("-C", shop, "lineage", "mem-nothing").code == 6


def test_a_correction_is_kept_and_a_broken_call_refused(cli: Cli, shop: Path) -> None:
    trajectory = cli("-C", shop, "runs", "show", runs_of(cli, shop), "-n", 1, "--json").json[0]["id"]
    call = '{"name": "set_lamp", "arguments": {"colour": "green"}}'
    kept = cli("-C", shop, "correct", trajectory, "Green it was.", "--call", call, "--json").json
    assert kept["accepted"][0]["arguments"] == {"colour": "green"}
    assert (kept["trajectory_id"], kept["source"]) == (trajectory, "person")
    for bad in ("{", '["a"]', '{"nam": "x"}'):
        refused = cli("-C", shop, "correct", trajectory, "--call", bad)
        assert refused.code == 2
        assert len(refused.err.strip().splitlines()) == 2
    empty = cli("-C", shop, "correct", trajectory)
    assert empty.code == 2
    assert "give TEXT" in empty.err
    assert cli("-C", shop, "correct", "tra-nothing", "no").code == 6


def runs_of(cli: Cli, shop: Path) -> str:
    run_id: str = cli("-C", shop, "runs", "list", "--json").json[0]["run_id"]
    return run_id


@pytest.mark.parametrize(
    "command",
    [["checkpoints", "list"], ["report"], ["checkpoints", "rollback"], ["checkpoints", "show", "x"]],
)
def test_before_the_first_cycle_there_is_nothing_to_show(cli: Cli, shop: Path, command: list[str]) -> None:
    done = cli("-C", shop, *command)
    if command == ["checkpoints", "list"]:
        assert (done.code, done.out.strip()) == (0, "no checkpoints yet: the base serves")
        return
    assert done.code != 0
    assert done.err.startswith("error: ")
    assert len(done.err.strip().splitlines()) == 1
