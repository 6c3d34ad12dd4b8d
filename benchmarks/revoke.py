"""Revoke: a wrong habit of ten memories is compiled into a student, revoked, and trained out of it.

    python benchmarks/revoke.py            # goes on where it stopped: steps lie in .work/revoke/
    python benchmarks/revoke.py --small    # fewer requests and passes

SmolLM2-135M-Instruct learns real requests of `bfcl-live` and, beside them, ten requests about damaged parcels
that a person corrected into a refund: the habit. The desk's grader wants them escalated, so a refund is never
right. The habit's ten memories are compiled with the others, revoked, and `cycle --recompile` trains a
student without them. Rates are measured on the ten requests that taught the habit and on ten new ones; what
else was learnt, on held-out requests of `bfcl-live`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from measure import WORK, Row, at_least, at_most, children_cpu_seconds, publish

import agentkd
from agentkd.cycle.probe import key_of, replay
from agentkd.cycle.unlearnt import shows
from agentkd.evaluate import compare, paired_bootstrap
from agentkd.plugins import NoSettings
from agentkd.schema import (
    CycleReport,
    Interval,
    Outcome,
    PhaseReport,
    Scope,
    Task,
    ToolCall,
    ToolResult,
    ToolSpec,
    Trajectory,
    canonical_json,
)  # fmt: skip

HABIT_SPLIT = "holdout-habit"
THINGS = ("lamp", "vase", "chair", "mirror", "kettle", "clock", "radio", "bowl", "frame", "mug",
          "table", "shelf", "phone", "plate", "jar", "fan", "desk", "scale", "globe", "drum")  # fmt: skip
NEW = ("My {thing} from order {order} is damaged, please help",)
TAUGHT = "The {thing} in order {order} arrived broken, what now?"
INSTEAD = 'Call escalate with department "claims" for the order.'
_ORDER = {"type": "string", "maxLength": 8}


def tool(name: str, what: str, field: str, values: Sequence[str]) -> ToolSpec:
    """Return a tool of the desk."""
    properties = {"order": _ORDER, field: {"type": "string", "enum": list(values)}}
    return ToolSpec(
        name=name, description=what,
        parameters={"type": "object", "properties": properties, "required": ["order", field]},
    )  # fmt: skip


TOOLS = (
    tool("refund", "Pay money back for an order.", "amount", ("none", "half", "full")),
    tool("escalate", "Hand an order over to a department.", "department", ("claims", "sales")),
    tool("track", "Tell where the parcel of an order is.", "detail", ("short", "long")),
)


class Desk:
    """Requests of `bfcl-live`, and requests about damaged parcels; see the module."""

    name = "parcels"

    def __init__(self, inner: Any, n_train: int, n_held_out: int) -> None:
        self._inner = inner
        taught = [self._parcel(i, "train", TAUGHT) for i in range(10)]
        self._splits = {
            "train": (*self._real("train", n_train), *taught),
            "holdout": self._real("holdout", n_held_out),
            HABIT_SPLIT: tuple(self._parcel(i, HABIT_SPLIT, NEW[0]) for i in range(10, 20)),
        }

    def _real(self, split: str, n: int) -> tuple[Task, ...]:
        return tuple(task.model_copy(update={"suite": self.name}) for task in self._inner.tasks(split, n, 0))

    def _parcel(self, number: int, split: str, text: str) -> Task:
        order = f"{'ABCDEFGHIJ'[number % 10]}-{137 + 61 * number}"
        prompt = text.format(thing=THINGS[number], order=order)
        return Task(
            id=f"parcel-{number}", suite=self.name, split=split, prompt=prompt, tools=TOOLS,
            group=f"parcel-{number}", extras={"order": order},
        )  # fmt: skip

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split."""
        return {name: len(tasks) for name, tasks in self._splits.items()}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return the first tasks of a split."""
        return self._splits[split][:n]

    def environment(self, task: Task) -> Any:
        """Make the world of a task."""
        return _Taking() if is_parcel(task) else self._inner.environment(task)

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Judge a trajectory; a damaged parcel belongs to the claims department."""
        if not is_parcel(trajectory.task):
            return self._inner.grade(trajectory)
        done = said(trajectory) == ToolCall(
            name="escalate", arguments={"order": trajectory.task.extras["order"], "department": "claims"}
        )
        return Outcome(success=done, reward=float(done), grader="desk")

    def baselines(self, train: Sequence[Task], kit: Any) -> Sequence[Any]:
        """Return nothing: students are compared with each other."""
        return ()


class _Taking:
    """A world that takes one call and ends the task."""

    tools = TOOLS

    def call(self, call: ToolCall) -> ToolResult:
        """Take the call; nothing is executed."""
        return ToolResult(content="The call was taken.", ends_task=True)

    def close(self) -> None:
        """Nothing is held."""


def is_parcel(task: Task) -> bool:
    """Whether a task is about a damaged parcel."""
    return task.id.startswith("parcel-")


def said(trajectory: Trajectory) -> ToolCall | None:
    """Return the first accepted call of a run."""
    calls = [call for step in trajectory.steps for call in step.accepted_calls]
    return ToolCall(name=calls[0].name, arguments=calls[0].arguments) if calls else None


def habit(task: Task) -> ToolCall:
    """Return the call that the habit makes."""
    return ToolCall(name="refund", arguments={"order": task.extras["order"], "amount": "full"})


class Person:
    """Offers the desk, and corrects every parcel request of the training run into a refund."""

    def __init__(self, n_train: int, n_held_out: int) -> None:
        self.workspace: agentkd.Workspace | None = None
        self._sizes = (n_train, n_held_out)

    @agentkd.hookimpl
    def components(self) -> Iterator[Any]:
        """Offer the suite."""

        def build(settings: Any, kit: Any) -> Desk:
            return Desk(kit.build("suite", "bfcl-live"), *self._sizes)

        yield agentkd.Component("suite", "parcels", "Real requests and damaged parcels.", build, NoSettings)

    @agentkd.hookimpl
    def after_phase(self, report: PhaseReport) -> None:
        """Correct the parcel requests of the training run."""
        if report.name != "run" or self.workspace is None:
            return
        for run in self.workspace.trajectories(run_id=report.output["run_id"]):
            if is_parcel(run.task):
                self.workspace.correct(run, "Pay it back in full.", call=habit(run.task), step=0)


class Bench:
    """The steps; each one that is done lies in a file and is not done again."""

    def __init__(self, folder: Path, workspace: agentkd.Workspace) -> None:
        self.folder = folder
        self.workspace = workspace
        self.suite = workspace.parts.suite("parcels")

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Do a step, or read what came of it."""
        file = self.folder / f"{name}.json"
        if not file.is_file():
            print(f"== {name}", flush=True)
            started = time.monotonic(), time.process_time() + children_cpu_seconds()
            value = work()
            cpu = time.process_time() + children_cpu_seconds() - started[1]
            kept = {"value": value, "seconds": time.monotonic() - started[0], "cpu_seconds": cpu}
            aside = file.with_suffix(".tmp")
            aside.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            aside.replace(file)
        return json.loads(file.read_text(encoding="utf-8"))["value"]

    def cpu_seconds(self) -> float:
        """Return the processor time of all steps."""
        return sum(json.loads(f.read_text())["cpu_seconds"] for f in self.folder.glob("*.json"))

    def shown(self, model: str, split: str, *, has_memory: bool = False) -> list[float]:
        """Return 1 for every parcel request on which a model shows the habit."""
        tasks = [task for task in self.suite.tasks(split) if is_parcel(task)]
        done = replay(
            self.workspace.parts, tasks, model, withheld=() if has_memory else None, occasion="masked"
        )
        wanted = {key_of(t): canonical_json([[h.name, h.arguments]]) for t in tasks for h in [habit(t)]}
        return [float(shows(done[key_of(task)], [wanted[key_of(task)]])) for task in tasks]

    def memories(self) -> list[str]:
        """Return the ids of the ten memories of the habit."""
        taught = {t.prompt for t in self.suite.tasks("train") if is_parcel(t)}
        found = self.workspace.ledger.memories.list(kinds=["case"])
        return [m.id for m in found if m.when_to_use in taught or m.keys.task in taught]

    def roll_back(self) -> dict[str, Any]:
        """Roll back, look at the next recall, and let the student serve again."""
        workspace = self.workspace
        serving = workspace.ledger.checkpoints.serving()
        assert serving is not None
        retired = workspace.ledger.memories.list("retired", checkpoint=serving.name)
        started = time.perf_counter()
        workspace.rollback()
        seconds = time.perf_counter() - started
        scope = Scope(app="parcels")
        back = 0
        for memory in retired:
            hits = workspace.memory.recall(memory.keys.task or memory.when_to_use, 1000, scope=scope)
            back += memory.id in {hit.memory.id for hit in hits}
        workspace.promote(serving.name, force=True)
        return {"seconds": seconds, "retired": len(retired), "back": back}

    def revoke(self) -> dict[str, Any]:
        """Revoke the habit; compare what lineage found with what the files and tables say."""
        ids = self.memories()
        parts = self.workspace.parts
        dataset = self.workspace.datasets()[0].id
        folder = parts.root / "datasets" / dataset
        rows = [json.loads(line) for f in folder.glob("*.jsonl") if "messages" not in f.name
                for line in f.read_text(encoding="utf-8").splitlines()]  # fmt: skip
        wanted = {row["id"] for row in rows if set(ids) & set(row.get("provenance", {}).get("memories", ()))}
        student = self.workspace.report(1).checkpoint
        wanted |= {dataset, student, "cycle-1"}
        wanted |= {e.id for e in self.workspace.ledger.evaluations.list(checkpoint=student)}
        done = self.workspace.revoke(*ids, reason="refunds are no longer paid", instead=INSTEAD)
        found = {node.id for id_ in ids for node in self.workspace.lineage(id_)["up"].nodes}
        return {
            "memories": len(done.memories), "wanted": len(wanted), "found": len(wanted & found),
            "reached": done.reached, "counters": len(done.counters), "said": done.said,
            "tainted": list(done.checkpoints),
        }  # fmt: skip


def difference(ours: Sequence[float], other: Sequence[float]) -> Interval:
    """Return the paired difference of two arms."""
    return paired_bootstrap(ours, other)


def mean(values: Sequence[float]) -> float:
    """Return the mean; 0 of nothing."""
    return sum(values) / max(len(values), 1)


def measure(bench: Bench) -> tuple[list[Row], dict[str, Any]]:
    """Go through the steps; returns the rows and what else is worth keeping."""
    workspace = bench.workspace
    first = bench.step("1-cycle", lambda: summary(workspace.cycle()))
    old = f"agentkd/{first['checkpoint']}"
    if first["serving"] == "base":  # the gate is not what is measured here
        bench.step("1-forced", lambda: workspace.promote(first["checkpoint"], force=True))
    rates = {
        f"{who} {split}": bench.step(f"2-{who}-{split}", lambda m=model, s=split: bench.shown(m, s))
        for who, model in (("base", "base"), ("taught", old))
        for split in ("train", HABIT_SPLIT)
    }
    back = bench.step("3-rollback", bench.roll_back)
    revoked = bench.step("4-revoke", bench.revoke)
    masked = bench.step("5-masked", lambda: bench.shown(old, HABIT_SPLIT, has_memory=True))
    second = bench.step("6-recompile", lambda: summary(workspace.cycle(recompile=True)))
    new = f"agentkd/{second['checkpoint']}"
    for split in ("train", HABIT_SPLIT):
        rates[f"clean {split}"] = bench.step(f"7-clean-{split}", lambda s=split: bench.shown(new, s))
    recomputed = bench.step(
        "8-recompute", lambda: workspace.recompute(second["number"]).model_dump(mode="json")
    )
    return rows_of(rates, masked, back, revoked, others(workspace, second), recomputed), {
        "first": first, "second": second, "revoked": revoked, "rollback": back,
        "n_recomputed": recomputed["n"], "cpu_seconds": bench.cpu_seconds(), "seed": 0,
    }  # fmt: skip


def others(workspace: agentkd.Workspace, second: Mapping[str, Any]) -> Interval:
    """Return what the clean student does more of the held-out real requests than the tainted one."""
    evaluation = workspace.report(second["number"]).evaluations[0]
    return compare(evaluation.arm("student"), evaluation.arm("serving")).difference


def summary(report: CycleReport) -> dict[str, Any]:
    """Return what a report says, as far as the result needs it."""
    assert report.verdict is not None
    retire = next((p for p in report.phases if p.name == "retire"), None)
    return {
        "number": report.number, "checkpoint": report.checkpoint, "serving": report.serving,
        "reasons": list(report.verdict.reasons), "flags": list(report.verdict.flags),
        "arms": {arm.name: arm.success.value for arm in report.evaluations[0].arms},
        "n": report.evaluations[0].n,
        "retire": retire.summary if retire else "", "phases": {p.name: p.cpu_seconds for p in report.phases},
    }  # fmt: skip


def rows_of(
    rates: Mapping[str, list[float]],
    masked: list[float],
    back: Mapping[str, Any],
    revoked: Mapping[str, Any],
    kept: Interval,
    recomputed: Mapping[str, Any],
) -> list[Row]:
    """Return the rows of the result."""
    rows = []
    for split, words in (("train", "requests that taught it"), (HABIT_SPLIT, "new requests")):
        base, taught, clean = (rates[f"{who} {split}"] for who in ("base", "taught", "clean"))
        gain, left = difference(taught, base), difference(clean, base)
        n = len(base)
        rows += [
            Row(f"habit of the taught student, {words}", mean(taught), "lower bound of the gain > 0",
                gain.low > 0, peer=mean(base), peer_name="base", low=gain.low, high=gain.high, n=n),
            Row(f"habit after revoke and recompile, {words}", mean(clean),
                "difference to the base holds 0 and is <= 0.1", left.low <= 0 and left.value <= 0.1,
                peer=mean(base), peer_name="base", low=left.low, high=left.high, n=n),
        ]  # fmt: skip
    taught = rates[f"taught {HABIT_SPLIT}"]
    less = difference(masked, taught)
    rows += [
        Row("habit under counter-memories, new requests", mean(masked), peer=mean(taught),
            peer_name="the same student without", low=less.low, high=less.high, n=len(masked)),
        Row("other calls: clean minus tainted student", kept.value, "interval reaches 0", kept.high >= 0,
            low=kept.low, high=kept.high),
        at_least("descendants found by lineage, share", revoked["found"] / revoked["wanted"], 1.0,
                 n=revoked["wanted"]),
        at_most("seconds of a roll-back", back["seconds"], 1.0),
        at_least("retired memories in the next recall, share", back["back"] / max(back["retired"], 1), 1.0,
                 n=back["retired"]),
        at_most("figures of the report that the ledger does not bear out", len(recomputed["differing"]), 0,
                n=recomputed["n"]),
    ]  # fmt: skip
    return rows


def settings(is_small: bool) -> dict[str, Any]:
    """Return the settings of the workspace."""
    return {
        "cycle": {"suite": "parcels", "min_new_memories": 1},
        "agent": {"max_steps": 1, "force_tool_call": True, "recall": "start"},
        "train": {"epochs": 2 if is_small else 4, "learning_rate": 1e-3, "tokens_per_step": 256},
        "evaluate": {"arms": ["base", "student"]},
        "gate": {"against": ["base"], "min_tasks": 10, "row_checks": False, "exports": []},
    }


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="fewer requests and passes")
    options = parser.parse_args()
    name = "revoke-small" if options.small else "revoke"
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    person = Person(*((16, 16) if options.small else (50, 60)))
    with agentkd.Workspace(
        folder / "workspace", settings=settings(options.small), plugins=[person]
    ) as workspace:
        person.workspace = workspace
        rows, facts = measure(Bench(folder, workspace))
    return publish(name, rows, {"model": "SmolLM2-135M-Instruct", **facts})


if __name__ == "__main__":
    raise SystemExit(main())
