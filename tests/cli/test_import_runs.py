from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from agentkd.cli.root import root

TRAJ = [
    {"role": "user", "content": "Book a table for 2."},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "book", "arguments": '{"people": 2}'}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "booked"},
]


def agentkd(*arguments: str) -> str:
    done = CliRunner().invoke(root, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_recorded_runs_are_taken_in_once_and_learnt_from(tmp_path: Path) -> None:
    file = tmp_path / "traces.json"
    file.write_text(json.dumps([{"task_id": 1, "reward": 1.0, "traj": TRAJ}]), encoding="utf-8")
    shop = ("-C", str(tmp_path / "shop"), "--set", "memory.index=exact", "--set", "memory.embedder=hashing")
    agentkd("init", str(tmp_path / "shop"))
    said = json.loads(agentkd(*shop, "--json", "runs", "import", str(file), "--suite", "tables"))
    assert (said["read"], said["new"]) == (1, 1)
    again = json.loads(agentkd(*shop, "--json", "runs", "import", str(file), "--suite", "tables"))
    assert (again["read"], again["new"]) == (1, 0)
    assert "1 stored" in agentkd(*shop, "distill")
    (memory,) = json.loads(agentkd(*shop, "--json", "memory", "list"))
    assert memory["scope"]["app"] == "tables"
    assert memory["evidence"]["spans"][0]["quote"] == "Book a table for 2."


def test_runs_of_a_held_out_task_never_come_in_as_training_runs(tmp_path: Path) -> None:
    lines = [{"id": "a", "prompt": "Book for 2.", "answer": "yes", "split": "train"},
             {"id": "b", "prompt": "Book for 3.", "answer": "yes", "split": "holdout"}]  # fmt: skip
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    file = tmp_path / "traces.json"
    file.write_text(json.dumps([{"task_id": "b", "reward": 1.0, "traj": TRAJ}]), encoding="utf-8")
    agentkd("init", str(tmp_path / "shop"))
    shop = ("-C", str(tmp_path / "shop"), "--set", f"suite.jsonl.path={tmp_path / 'tasks.jsonl'}")
    command = (*shop, "runs", "import", str(file), "--suite", "jsonl")
    done = CliRunner().invoke(root, command)
    assert "held out by the suite `jsonl`" in str(done.exception)
    assert json.loads(agentkd(*shop, "--json", "runs", "list")) == []
    done = CliRunner().invoke(root, (*command, "--split", "holdout"), catch_exceptions=False)
    assert done.exit_code == 0
    assert "distill" not in done.stderr
