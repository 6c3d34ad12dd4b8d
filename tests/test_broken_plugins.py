"""A broken plugin at work: its command ends with its name; without it the facts are those of a sound one."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd import hookspecs
from agentkd.errors import PluginError, StoreError
from agentkd.hooks import blaming
from agentkd.memory import IndexLock
from agentkd.models.scripted import ScriptedModel
from agentkd.plugins import PluginHost
from agentkd.schema import Reply, Task, ToolCall, ToolSpec
from agentkd.testing import FakeSuite

HOOKS = ("before_run", "rank_recalled", "after_step", "after_run", "after_correction")
SETTINGS: dict[str, Any] = {
    "roles": {"actor": "clerk"},
    "agent": {"max_steps": 2},
    "memory": {"embedder": "hashing", "index": "exact", "min_score": 0.01, "trial_share": 0.0},
    "distill": {"distillers": ["case", "correction"]},
    "run": {"workers": 1},
    "cycle": {"suite": "lamps"},
    "plugins": {"auto": False, "hook_seconds": 15.0},
}
HANGS = {**SETTINGS, "plugins": {"auto": False, "hook_seconds": 2.0}}
TOOL = ToolSpec(name="lamp", parameters={"type": "object", "properties": {"colour": {"type": "string"}}})


class Lamps:
    """Four tasks, and a clerk who does half of them."""

    @agentkd.hookimpl
    def components(self) -> Any:
        red = ToolCall(name="lamp", arguments={"colour": "red"})
        asked = [(f"Make lamp {n} red!", red) for n in range(4)]
        later = [("Make lamp 1 red now!", red)]
        suite = FakeSuite({"train": asked, "later": later}, tools=[TOOL], name="lamps")
        yield agentkd.Component("suite", "lamps", "Lamps.", lambda settings, kit: suite)
        yield agentkd.Component("model", "clerk", "Does half.", lambda settings, kit: ScriptedModel(clerk))


def clerk(messages: Any, tools: Any) -> Reply:
    is_even = any(f"lamp {n}" in message.content for message in messages for n in (0, 2))
    colour = "red" if is_even else "blue"
    return Reply(tool_calls=(ToolCall(name="lamp", arguments={"colour": colour}),))


def work(root: Path, *plugins: object, settings: dict[str, Any] = SETTINGS) -> dict[str, int]:
    """Run, correct, distil and run with what was learnt; return what the ledger holds."""
    with agentkd.Workspace(root, settings=settings, plugins=[Lamps(), *plugins]) as shop:
        if not shop.ledger.memories.list():  # what is done is not done again
            shop.run()
            wrong = next(t for t in shop.trajectories() if not t.success)
            shop.correct(wrong, "Lamps are red here.", step=0)
            shop.distill()
        shop.run(split="later")
        assert shop.ledger.memories.recalls()
        shop.ledger.check()
        return {**shop.ledger.counts(), "active": len(shop.ledger.memories.list(status="active"))}


def spoil(**given: Any) -> None:
    for value in given.values():
        for name in getattr(type(value), "model_fields", ()):
            object.__setattr__(value, name, "spoilt")
        if isinstance(value, list):
            value.clear()


def faulty(hook: str, fault: str, gate: threading.Event) -> object:
    names = {
        "before_run": "task", "rank_recalled": "hits", "after_step": "trajectory", "after_run": "trajectory",
        "after_correction": "correction", "admit_memory": "memory",
    }  # fmt: skip
    faults: dict[str, Callable[[Any], Any]] = {
        "raises": lambda value: 1 / 0,
        "hangs": lambda value: gate.wait(30) and None,
        "mutates": lambda value: spoil(value=value),
        "rubbish": lambda value: "rubbish",
    }
    act = faults[fault]
    function = eval(f"lambda self, {names[hook]}: act({names[hook]})", {"act": act})
    return type("Faulty", (), {hook: agentkd.hookimpl(function)})()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    return work(tmp_path_factory.mktemp("sound") / "shop")


@pytest.mark.parametrize(
    ("hook", "fault"),
    [(hook, fault) for hook in HOOKS for fault in ("raises", "mutates", "rubbish")]
    + [("after_step", "hangs"), ("admit_memory", "mutates")],  # the others hang in tests/test_hookspecs.py
)
def test_a_broken_plugin_is_named_and_leaves_the_facts_alone(
    tmp_path: Path, undisturbed: dict[str, int], hook: str, fault: str
) -> None:
    gate = threading.Event()
    plugin = faulty(hook, fault, gate)
    is_ignored = fault == "mutates" or (fault == "rubbish" and hook.startswith("after_"))
    try:
        if is_ignored:
            assert work(tmp_path / "shop", plugin) == undisturbed
            return
        with pytest.raises(PluginError, match="plugin `Faulty`") as caught:
            work(tmp_path / "shop", plugin, settings=HANGS if fault == "hangs" else SETTINGS)
        assert f"`{hook}`" in str(caught.value)
    finally:
        gate.set()
    assert work(tmp_path / "shop") == undisturbed


@pytest.mark.parametrize("fault", ["raises", "rubbish"])
def test_a_memory_that_a_broken_plugin_judged_stays_out_and_comes_in_later(
    tmp_path: Path, undisturbed: dict[str, int], fault: str
) -> None:
    plugin = faulty("admit_memory", fault, threading.Event())
    with agentkd.Workspace(tmp_path / "shop", settings=SETTINGS, plugins=[Lamps(), plugin]) as shop:
        shop.run()
        report = shop.distill()
        assert shop.ledger.memories.list() == []
        assert "plugin `Faulty`" in report.model_dump_json()
    assert work(tmp_path / "shop") == undisturbed


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "disk full"), (errno.EIO, "the disk failed")])
def test_a_full_or_failing_disk_is_not_blamed_on_the_plugin_that_met_it(number: int, said: str) -> None:
    with pytest.raises(StoreError, match=f"{said} while writing `/data/x`"), blaming("mine", "index `i`"):
        raise OSError(number, os.strerror(number), "/data/x")
    with pytest.raises(PluginError, match="`mine` failed in index `i`"), blaming("mine", "index `i`"):
        raise PermissionError(errno.EACCES, "denied", "/data/x")

    class Writing:
        @agentkd.hookimpl
        def rank_recalled(self, hits: Any) -> Any:
            raise OSError(number, os.strerror(number), "/data/x")

    host = PluginHost(auto=False)
    host.add(Writing(), "mine")
    with pytest.raises(StoreError, match=f"{said} while writing `/data/x`"):
        host.hooks.ask(hookspecs.rank_recalled, task=Task(id="t", suite="s", prompt="p"), hits=[])


def test_a_lock_that_cannot_be_written_says_so_and_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / ".lock"
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", _full)
        with pytest.raises(StoreError, match=r"cannot write the lock .*No space left"):
            IndexLock(place)
    IndexLock(place).release()


def _full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
