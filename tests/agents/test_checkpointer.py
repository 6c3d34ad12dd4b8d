"""A stored state is data: whatever it names, nothing of it is imported, called or built."""

from __future__ import annotations

import pickle
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from agent_parts import Build, call

from agentkd.agents import open_checkpointer
from agentkd.agents.checkpointer import memory_checkpointer, strict
from agentkd.agents.state import Run
from agentkd.agents.trial import Trial
from agentkd.errors import StoreError
from agentkd.schema import Reply, Scope, Task

MARK = "executed"
TARGETS = [
    ("os", "system", f"touch {MARK}"),
    ("subprocess", "Popen", ["touch", MARK]),
    ("builtins", "eval", f"open({MARK!r}, 'w')"),
    ("pathlib", "Path.touch", MARK),
    ("evil_module", "Thing", "x"),
    ("agentkd.plugins", "PluginHost", True),
    ("importlib", "import_module", "evil_module"),
]


class Touches:
    def __reduce__(self) -> Any:
        return Path.touch, (Path(MARK),)


def crafted() -> list[bytes]:
    """Every target under every code of LangGraph's msgpack, as a value and inside of one."""
    import ormsgpack

    found = []
    for code in range(8):
        for module, name, argument in TARGETS:
            wrapped = [argument] if code == 1 else {"text": argument} if code == 2 else argument
            body = ormsgpack.packb((module, name, wrapped, "fromisoformat" if code == 3 else "construct"))
            ext = ormsgpack.Ext(code, body)
            found.append(ormsgpack.packb(ext))
            found.append(ormsgpack.packb({"run": [ext]}))
    return found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_module.py").write_text(f"open({MARK!r}, 'w')\nclass Thing:\n    pass\n")
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    return tmp_path


def test_crafted_states_execute_nothing(here: Path) -> None:
    serde = memory_checkpointer().serde
    payloads = crafted()
    assert len(payloads) == 112
    for payload in payloads:
        try:
            serde.loads_typed(("msgpack", payload))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            continue
        assert not (here / MARK).exists()
    assert "evil_module" not in sys.modules
    assert not (here / MARK).exists()


@pytest.mark.parametrize("kind", ["pickle", "json"])
def test_a_state_that_may_name_what_it_builds_is_refused(here: Path, kind: str) -> None:
    text = b'{"lc": 2, "type": "constructor", "id": ["evil_module", "Thing"], "args": []}'
    data = pickle.dumps(Touches()) if kind == "pickle" else text
    with pytest.raises(StoreError, match=kind):
        memory_checkpointer().serde.loads_typed((kind, data))
    assert not (here / MARK).exists()


def test_a_permissive_checkpointer_reads_strictly_in_an_agent(here: Path, build: Build) -> None:
    import ormsgpack
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    lax = InMemorySaver(serde=JsonPlusSerializer(pickle_fallback=True, allowed_msgpack_modules=True))
    payload = ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb(("evil_module", "Thing", "x"))))
    strict(lax).serde.loads_typed(("msgpack", payload))
    assert not (here / MARK).exists()
    lax.serde.loads_typed(("msgpack", payload))
    assert (here / MARK).exists()  # the payload is live
    agent = build(["done"], checkpointer=lax)
    assert agent.run("go").answer == "done"
    with pytest.raises(StoreError, match="pickle"):
        agent._graph.checkpointer.serde.loads_typed(("pickle", pickle.dumps(1)))


def test_a_poisoned_file_of_a_waiting_run_executes_nothing(here: Path, build: Build) -> None:
    import ormsgpack

    saver = open_checkpointer(here / "waiting.db")
    agent = build(
        [Reply(tool_calls=(call("refund", order="a", euros=1),))],
        interrupt_on=["refund"],
        checkpointer=saver,
    )
    paused = agent.run("money back", thread_id="t")
    body = ormsgpack.packb(("evil_module", "Thing", "x"))
    with sqlite3.connect(here / "waiting.db") as base:
        for column in ("checkpoint", "value"):
            table = "checkpoints" if column == "checkpoint" else "writes"
            poisoned = ormsgpack.packb(ormsgpack.Ext(0, body))
            assert base.execute(f"UPDATE {table} SET {column} = ?", (poisoned,)).rowcount
    base.close()
    with pytest.raises(Exception):  # noqa: B017 - LangGraph's own error: the state is no state any more
        build(["done"], interrupt_on=["refund"], checkpointer=open_checkpointer(here / "waiting.db")).resume(
            paused.thread_id, {"kind": "approve"}
        )
    assert "evil_module" not in sys.modules
    assert not (here / MARK).exists()


def test_states_that_differ_in_a_secret_alone_are_never_read_as_one_another() -> None:
    serde = open_checkpointer(Path("agents.db")).serde
    one, two = ([{"pay": number}] for number in ("4111 1111 1111 1111", "5500 0000 0000 0004"))
    first = serde.dumps_typed(one)
    assert serde.loads_typed(first) == one
    second = serde.dumps_typed(two)
    assert second == first
    assert "redacted" in str(serde.loads_typed(first))
    assert "redacted" in str(serde.loads_typed(second))
    assert b"4111111111111111" not in serde.dumps_typed({"card": 4111111111111111})[1]


def test_a_run_that_waits_goes_on_for_the_same_user_whatever_his_number_looks_like() -> None:
    ann = Scope(user="481204938120498123")  # the digits could be those of a card
    task = Task(id="t-1", suite="adhoc", prompt="pay with 4111 1111 1111 1111")
    run = Run(
        trajectory_id="tra-1", run_id="run-1", thread_id="t", task=task, scope=ann, trial=Trial(scope=ann)
    )
    written, other = (open_checkpointer(Path("agents.db")).serde for _ in range(2))
    read = other.loads_typed(written.dumps_typed(run))
    assert "4111" not in read.task.prompt
    assert (read.scope, read.trial.scope) == (ann, ann)
