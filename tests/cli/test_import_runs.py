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
