"""The conformance checks: what is built in passes, and every broken promise is told from the others."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agentkd
import agentkd.builtins
from agentkd import testing
from agentkd.distill import CaseDistiller
from agentkd.memory import ChromaIndex, ChromaSettings, ExactIndex
from agentkd.schema import (
    Memory,
    MemoryKeys,
    Message,
    Outcome,
    Reply,
    Task,
    ToolCall,
    ToolSpec,
    Trajectory,
    Value,
    memory_id,
)
from agentkd.testing import FakeKit, FakeSuite, FixedClock, HashingEmbedder, ScriptedModel

CALL = ToolCall(name="find_order", arguments={"email": "ann@example.com", "limit": 5})


def clerk(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str | ToolCall:
    return CALL if tools else "hello"


class Obedient(ScriptedModel):
    """A scripted model that follows `tool_choice`."""

    def reply(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), **sampling: Any) -> Reply:
        offered = tools if sampling.get("tool_choice") != "none" else ()
        return super().reply(messages, offered, **sampling)


def breaks(pattern: str) -> Any:
    return pytest.raises(AssertionError, match=pattern)


# models


def test_a_model_that_follows_the_tool_choice_conforms() -> None:
    testing.check_model(Obedient(clerk))


def test_a_model_is_told_which_promise_it_breaks() -> None:
    with breaks("gave no tool call"):
        testing.check_model(ScriptedModel(["hi"], repeat=True))
    with breaks("gave a tool call"):
        testing.check_model(ScriptedModel(clerk))
    with breaks("arguments break the schema"):
        testing.check_model(Obedient(lambda m, t: CALL.model_copy(update={"arguments": {}}) if t else "x"))
    with breaks("was not offered"):
        testing.check_model(Obedient(lambda m, t: ToolCall(name="other") if t else "x"))
    with breaks("gave different texts"):
        testing.check_model(ScriptedModel(["a", "b"], repeat=True), calls_tools=False)
    testing.check_model(ScriptedModel(["a", "b"], repeat=True), calls_tools=False, is_deterministic=False)


# embedders


class Fake(HashingEmbedder):
    def __init__(self, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.change = change

    def embed(self, texts: Sequence[str]) -> Any:
        return self.change(super().embed(texts))


def test_the_hashing_embedder_conforms() -> None:
    testing.check_embedder(HashingEmbedder())


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda v: v * 2, "not of length 1"),
        (lambda v: v.astype(np.float64), "promised float32"),
        (lambda v: v[:, :4], "promised"),
        (lambda v: v * np.nan, "NaN"),
        (lambda v: np.roll(v, 1, axis=0), "alone and in a batch"),
        (lambda v: np.eye(512, dtype=np.float32)[np.zeros(len(v), int)], "the same vector"),
    ],
)
def test_an_embedder_is_told_which_promise_it_breaks(change: Callable[[Any], Any], pattern: str) -> None:
    with breaks(pattern):
        testing.check_embedder(Fake(change))


# indexes


def test_the_built_in_indexes_conform(tmp_path: Path) -> None:
    testing.check_index(ExactIndex)
    testing.check_index(lambda: ChromaIndex(ChromaSettings(), path=tmp_path, fingerprint="emb-test"))


class Careless(ExactIndex):
    """An index that ignores one promise."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def query(self, vectors: Any, k: int, partition: str) -> Any:
        found = super().query(vectors, k, partition)
        return [hits[::-1] for hits in found] if self.fault == "order" else found

    def delete(self, memory_ids: Sequence[str], partition: str) -> None:
        if self.fault != "delete":
            super().delete(memory_ids, partition)

    def clear(self) -> None:
        if self.fault != "clear":
            super().clear()


@pytest.mark.parametrize(
    ("fault", "pattern"),
    [("order", "best first"), ("delete", "still found"), ("clear", "left after `clear`")],
)
def test_an_index_is_told_which_promise_it_breaks(fault: str, pattern: str) -> None:
    with breaks(pattern):
        testing.check_index(lambda: Careless(fault))


# suites

TOOLS = [ToolSpec(name="book")]
REQUESTS: Mapping[str, list[tuple[str, ToolCall | str]]] = {
    "train": [(f"Book for {n}", ToolCall(name="book", arguments={"people": n})) for n in range(5)],
    "holdout": [(f"Book for {n}", ToolCall(name="book", arguments={"people": n})) for n in range(5, 9)],
}


def test_a_suite_in_memory_conforms() -> None:
    testing.check_suite(FakeSuite(REQUESTS, tools=TOOLS))


def test_the_suite_in_memory_grades_and_teaches_on_training_tasks_only() -> None:
    suite = FakeSuite(REQUESTS, tools=TOOLS)
    for split, n_told in (("train", 1), ("holdout", 0)):
        task = suite.tasks(split)[0]
        wrong = Trajectory(id="t", run_id="r", task=task)
        assert len(suite.grade(wrong).expected) == n_told
        right = testing.example_trajectory(calls=[suite._answers[task.id]])  # type: ignore[list-item]
        assert suite.grade(right.model_copy(update={"task": task})).success


class Leaky(FakeSuite):
    def __init__(self, fault: str) -> None:
        super().__init__(REQUESTS, tools=TOOLS)
        self.fault = fault
        if fault == "group":
            self._tasks = {
                split: [task.model_copy(update={"group": "one"}) for task in tasks]
                for split, tasks in self._tasks.items()
            }

    def grade(self, trajectory: Trajectory) -> Outcome:
        outcome = super().grade(trajectory)
        if self.fault == "answers":
            return outcome.model_copy(update={"expected": (ToolCall(name="book"),)})
        if self.fault == "words":
            return outcome.model_copy(update={"expected_answer": "a table"})
        return outcome.model_copy(update={"success": True}) if self.fault == "lenient" else outcome

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        found = super().tasks(split, n, seed)
        return found[1:] if self.fault == "count" else found


@pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        ("group", "both on the training and on the held-out side"),
        ("answers", "gave away the answer of held-out task"),
        ("words", "gave away the answer of held-out task"),
        ("lenient", "was graded as a success"),
        ("count", "`splits` says 5 tasks"),
    ],
)
def test_a_suite_is_told_which_promise_it_breaks(fault: str, pattern: str) -> None:
    with breaks(pattern):
        testing.check_suite(Leaky(fault))


# distillers


def test_the_case_distiller_conforms() -> None:
    testing.check_distiller(CaseDistiller(), min_memories=2)


class Sloppy:
    name = "sloppy"

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def distill(self, trajectories: Sequence[Trajectory], corrections: Any, kit: Any) -> Iterator[Memory]:
        for run in trajectories:
            memory = Memory(
                id=memory_id("insight", "when", "what", kit.settings.memory.scope),
                kind="insight",
                when_to_use="when",
                content="what",
                keys=MemoryKeys(situation="when"),
                evidence={"trajectories": (run.id,)},  # type: ignore[arg-type]
            )
            yield memory.model_copy(update=self.changes)


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"id": "mem-own"}, "does not have its content id"),
        ({"keys": MemoryKeys()}, "no key is set"),
        ({"status": "active"}, "gives candidates"),
        ({"confidence": 2.0}, "not in"),
        ({"evidence": Memory.model_fields["evidence"].default}, "rests on no trajectory"),
    ],
)
def test_a_distiller_is_told_which_promise_it_breaks(changes: dict[str, Any], pattern: str) -> None:
    testing.check_distiller(Sloppy())
    with breaks(pattern):
        testing.check_distiller(Sloppy(**changes))


# objectives


class Plain:
    name = "plain"
    requires: frozenset[str] = frozenset()

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def prepare(self, n_steps: int) -> None: ...

    def forward(self, context: Any) -> Mapping[str, Any]:
        log_probs = context.logits.log_softmax(-1)
        picked = log_probs.gather(-1, context.targets[:, None]).squeeze(-1)
        weights = context.weights + (1.0 if self.fault == "weights" else 0.0)
        divisor = weights.sum() if self.fault == "normaliser" else context.normaliser
        loss = -(picked * weights).sum() / divisor
        return {
            "nll": loss[None]
            if self.fault == "shape"
            else loss.log() * 0 / 0
            if self.fault == "nan"
            else loss
        }

    def state_dict(self) -> dict[str, Any]:
        return {"state": {1, 2}} if self.fault == "state" else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def test_the_built_in_objectives_conform() -> None:
    registry = testing.check_plugin(agentkd.builtins).registry
    assert registry.names("objective")
    for name in registry.names("objective"):
        testing.check_objective(registry.build("objective", name, {}, FakeKit()))


@pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        ("weights", "positions of weight 0 get a gradient"),
        ("normaliser", "divide the weighted sum"),
        ("shape", "no scalar tensor"),
        ("nan", "is nan"),
        ("state", "is not JSON"),
    ],
)
def test_an_objective_is_told_which_promise_it_breaks(fault: str, pattern: str) -> None:
    testing.check_objective(Plain())
    with breaks(pattern):
        testing.check_objective(Plain(fault))


# plugins


class Bare(Value):
    size: int = 1


class Loose(Value, extra="allow"):
    size: int = 1
    """A size."""


def offering(*components: agentkd.Component[Any]) -> object:
    class Plugin:
        @agentkd.hookimpl
        def components(self) -> Iterable[agentkd.Component[Any]]:
            return components

    return Plugin()


@pytest.mark.parametrize(
    ("component", "pattern"),
    [
        (agentkd.Component("scorer", "Bad_Name", "A part.", lambda s, k: None), "kebab-case"),
        (agentkd.Component("scorer", "part", "a part", lambda s, k: None), "one sentence"),
        (agentkd.Component("scorer", "part", "A part.", lambda s, k: None, Bare), "`size` has no docstring"),
        (agentkd.Component("scorer", "part", "A part.", lambda s, k: None, Loose), "forbid unknown keys"),
    ],
)
def test_a_plugin_is_told_what_does_not_fit(component: agentkd.Component[Any], pattern: str) -> None:
    with breaks(pattern):
        testing.check_plugin(offering(component))


def test_a_plugin_without_hooks_or_with_a_heavy_import_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with breaks("implements no hook"):
        testing.check_plugin(types.SimpleNamespace(), name="empty")
    (tmp_path / "kd_heavy.py").write_text(
        "import agentkd, sqlalchemy\n@agentkd.hookimpl\ndef after_run(trajectory): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import kd_heavy  # type: ignore[import-not-found]

    with breaks("loads sqlalchemy"):
        testing.check_plugin(kd_heavy)
    del sys.modules["kd_heavy"]


def test_a_plugin_without_skills_in_its_skill_folder_is_refused(tmp_path: Path) -> None:
    class Plugin:
        @agentkd.hookimpl
        def skills(self) -> Iterable[Path]:
            yield tmp_path

    with breaks("holds no `<name>/SKILL.md`"):
        testing.check_plugin(Plugin(), name="mine")


# the small fakes


def test_a_fixed_clock_stands_still_until_it_ticks() -> None:
    clock = FixedClock()
    first = clock()
    assert clock() == first
    clock.tick(2.5)
    assert (clock() - first).total_seconds() == 2.5


def test_a_fake_kit_gives_only_what_it_was_given(tmp_path: Path) -> None:
    model = ScriptedModel(["x"])
    kit = FakeKit(models={"judge": model}, sources={"wheel:data": tmp_path})
    assert kit.model("judge") is model
    assert kit.fetch("wheel:data") == kit.fetch(f"path:{tmp_path}") == tmp_path
    assert kit.embedder() is kit.embedder()
    with pytest.raises(agentkd.AgentkdError, match="no model plays the role `distiller`"):
        kit.model("distiller")
    with pytest.raises(agentkd.AgentkdError, match="no folder for `hf:any`"):
        kit.fetch("hf:any")
