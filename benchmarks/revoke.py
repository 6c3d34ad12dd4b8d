"""Revoke: a wrong habit of ten memories is compiled into a student, revoked, and trained out of it.

    python benchmarks/revoke.py            # three seeds; goes on where it stopped (.work/revoke)
    python benchmarks/revoke.py --small    # one seed, fewer requests and passes

SmolLM2-135M-Instruct learns real requests of `bfcl-live` and, beside them, ten requests about damaged parcels
that a person corrected into a refund: the habit. The desk's grader wants them escalated, so a refund is never
right. The habit's ten memories, with two rules that the same corrections taught, are compiled with the others
and revoked: the base acts near them from then on until `cycle --recompile` has trained a student without
them. Rates are measured on the ten requests that taught the habit and on ten new ones; what else was learnt,
on held-out requests of `bfcl-live`. Two trainings on nearly the same rows differ by several tasks of sixty,
so all of it is done under three seeds of the training; intervals are drawn over tasks, each with what it gave
under all seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from measure import WORK, Row, above, at_least, at_most, children_cpu_seconds, kept, publish
from revoke_desk import HABIT_SPLIT, INSTEAD, Person, habit, is_parcel, said

import agentkd
from agentkd.cycle.probe import key_of, replay
from agentkd.cycle.routing import ServingStudent
from agentkd.cycle.stage import run_stage
from agentkd.cycle.unlearnt import shows
from agentkd.evaluate import paired_bootstrap
from agentkd.files import write_whole
from agentkd.schema import CycleReport, Evaluation, Interval, Scope, canonical_json, content_id

SEEDS = (0, 1, 2)
EDITION = 2
"""Raised where what is measured changes otherwise than by a setting."""


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
            found = {"value": value, "seconds": time.monotonic() - started[0], "cpu_seconds": cpu}
            aside = file.with_suffix(".tmp")
            aside.write_text(json.dumps(found, indent=1), encoding="utf-8")
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

    def served(self, split: str) -> list[float]:
        """Return 1 for every parcel request on which what serves shows the habit, as agents are served."""
        tasks = [task for task in self.suite.tasks(split) if is_parcel(task)]
        run_id = content_id("run", "as served", split)
        run_stage(
            self.workspace.parts, suite=self.suite, tasks=tasks, run_id=run_id, model="student",
            uses_memory=True, label="served", has_trials=False,
        )  # fmt: skip
        done = {run.task.id: run for run in self.workspace.ledger.trajectories.of_run(run_id)}
        return [float(said(done[task.id]) == habit(task)) for task in tasks]

    def stood_aside(self) -> list[float]:
        """Return 1 for every held-out real request that is not given to the tainted student which serves."""
        serving = ServingStudent(self.workspace.parts)
        return [
            float(serving.aside(task.prompt, serving.checkpoint()) is not None)
            for task in self.suite.tasks("holdout")
        ]

    def memories(self) -> list[str]:
        """Return the ids of the ten cases of the habit, and of the rules that the same runs taught."""
        taught = {t.prompt for t in self.suite.tasks("train") if is_parcel(t)}
        found = self.workspace.ledger.memories.list(kinds=["case"])
        cases = [m.id for m in found if m.when_to_use in taught or m.keys.task in taught]
        return [*cases, *self.workspace.ledger.revocations.siblings(cases)]

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


@dataclass(frozen=True)
class Done:
    """What the steps gave under one seed."""

    rates: dict[str, list[float]]
    """By student and split, 1 for every parcel request on which the habit is shown."""
    arms: dict[str, list[float]]
    """By student, 1 for every held-out real request that is done."""
    masked: list[float]
    """The habit of the tainted student on new requests beside counter-memories."""
    away: list[float]
    """1 for every held-out real request that goes to the base while the tainted student serves."""
    back: dict[str, Any]
    revoked: dict[str, Any]
    recomputed: dict[str, Any]
    facts: dict[str, Any]


def measure(bench: Bench) -> Done:
    """Go through the steps under one seed."""
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
    for split in ("train", HABIT_SPLIT):
        rates[f"aside {split}"] = bench.step(f"5-aside-{split}", lambda s=split: bench.served(s))
    away = bench.step("5-away", bench.stood_aside)
    second = bench.step("6-recompile", lambda: summary(workspace.cycle(recompile=True)))
    new = f"agentkd/{second['checkpoint']}"
    for split in ("train", HABIT_SPLIT):
        rates[f"clean {split}"] = bench.step(f"7-clean-{split}", lambda s=split: bench.shown(new, s))
    recomputed = bench.step(
        "8-recompute", lambda: workspace.recompute(second["number"]).model_dump(mode="json")
    )
    evaluation = workspace.report(second["number"]).evaluations[0]
    arms = {name: successes(evaluation, name) for name in ("base", "serving", "student")}
    facts = {
        "first": first, "second": second, "revoked": revoked, "rollback": back,
        "n_recomputed": recomputed["n"], "cpu_seconds": bench.cpu_seconds(),
    }  # fmt: skip
    return Done(rates, arms, masked, away, back, revoked, recomputed, facts)


def successes(evaluation: Evaluation, arm: str) -> list[float]:
    """Return 1 for every task that an arm did, in the order of the tasks."""
    results = sorted(evaluation.arm(arm).results, key=lambda result: result.task_id)
    return [float(result.success) for result in results]


def over_seeds(values: Iterable[Sequence[float]]) -> list[float]:
    """Return per task the mean of what it gave under all seeds."""
    return [mean(each) for each in zip(*values, strict=True)]


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


def rows_of(done: Sequence[Done]) -> list[Row]:
    """Return the rows of the result, over all seeds."""
    rows = []
    for split, words in (("train", "requests that taught it"), (HABIT_SPLIT, "new requests")):
        base, taught, aside, clean = (
            over_seeds(each.rates[f"{who} {split}"] for each in done)
            for who in ("base", "taught", "aside", "clean")
        )
        gain, served, left = (difference(arm, base) for arm in (taught, aside, clean))
        n = len(base) * len(done)
        rows += [
            Row(f"habit of the taught student, {words}", mean(taught), "lower bound of the gain > 0",
                gain.low > 0, peer=mean(base), peer_name="base", low=gain.low, high=gain.high, n=n),
            Row(f"habit as served after revoke, {words}", mean(aside),
                "difference to the base holds 0 and is <= 0.1", served.low <= 0 and served.value <= 0.1,
                peer=mean(base), peer_name="base", low=served.low, high=served.high, n=n),
            Row(f"habit after revoke and recompile, {words}", mean(clean),
                "difference to the base holds 0 and is <= 0.1", left.low <= 0 and left.value <= 0.1,
                peer=mean(base), peer_name="base", low=left.low, high=left.high, n=n),
        ]  # fmt: skip
    taught = over_seeds(each.rates[f"taught {HABIT_SPLIT}"] for each in done)
    masked = over_seeds(each.masked for each in done)
    less = difference(masked, taught)
    rows.append(
        Row("habit beside counter-memories alone, new requests", mean(masked), peer=mean(taught),
            peer_name="the same student without", low=less.low, high=less.high, n=len(masked) * len(done))
    )  # fmt: skip
    away = [value for each in done for value in each.away]
    rows.append(at_most("other requests that the base acts on instead, share", mean(away), 0.1, n=len(away)))
    return [*rows, *_others(done), *_traces(done)]


def _others(done: Sequence[Done]) -> list[Row]:
    """Return what else was learnt: held-out real requests."""
    base, tainted, clean = (
        over_seeds(each.arms[arm] for each in done) for arm in ("base", "serving", "student")
    )
    gain, left, n = difference(clean, base), difference(clean, tainted), len(base) * len(done)
    return [
        Row(f"other calls: {who}", mean(values), n=n)
        for who, values in (("base", base), ("tainted student", tainted), ("clean student", clean))
    ] + [
        above("other calls: clean student minus base", gain.value, gain.low, 0.0, high=gain.high, n=n),
        Row("other calls: clean minus tainted student", left.value, "interval reaches 0", left.high >= 0,
            low=left.low, high=left.high, n=n),
    ]  # fmt: skip


def _traces(done: Sequence[Done]) -> list[Row]:
    """Return what lineage, roll-back and recomputing gave."""
    wanted, found = (sum(each.revoked[name] for each in done) for name in ("wanted", "found"))
    retired, back = (sum(each.back[name] for each in done) for name in ("retired", "back"))
    differing = sum(len(each.recomputed["differing"]) for each in done)
    return [
        at_least("descendants found by lineage, share", found / wanted, 1.0, n=wanted),
        at_most("seconds of a roll-back", max(each.back["seconds"] for each in done), 1.0, n=len(done)),
        at_least("retired memories in the next recall, share", back / max(retired, 1), 1.0, n=retired),
        at_most("figures of the report that the ledger does not bear out", differing, 0,
                n=sum(each.recomputed["n"] for each in done)),
    ]  # fmt: skip


def settings(is_small: bool, seed: int) -> dict[str, Any]:
    """Return the settings of the workspace."""
    return {
        "cycle": {"suite": "parcels", "min_new_memories": 1},
        "agent": {"max_steps": 1, "force_tool_call": True, "recall": "start"},
        "train": {
            "epochs": 2 if is_small else 4,
            "learning_rate": 1e-3,
            "tokens_per_step": 256,
            "seed": seed,
        },
        "evaluate": {"arms": ["base", "student"]},
        "retire": {} if seed == 0 else {"probes": 0},  # a roll-back is looked at once
        "gate": {"against": ["base"], "min_tasks": 10, "row_checks": False, "exports": []},
    }


def of_seed(name: str, seed: int, is_small: bool) -> Done:
    """Return what the steps gave under a seed, now or on another machine before."""
    table = settings(is_small, seed)
    cell, key = kept(name) / f"{seed}.json", content_id("cell", table, EDITION)
    if cell.is_file():
        known = json.loads(cell.read_text(encoding="utf-8"))
        if known.pop("key") == key:
            return Done(**known)
    folder, person = WORK / name / str(seed), Person(*((16, 16) if is_small else (50, 60)))
    folder.mkdir(parents=True, exist_ok=True)
    with agentkd.Workspace(folder / "workspace", settings=table, plugins=[person]) as workspace:
        person.workspace = workspace
        done = measure(Bench(folder, workspace))
    if not is_small:
        cell.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cell, json.dumps({"key": key, **asdict(done)}))
    return done


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="fewer requests and passes")
    options = parser.parse_args()
    name = "revoke-small" if options.small else "revoke"
    done = [of_seed(name, seed, options.small) for seed in ((0,) if options.small else SEEDS)]
    facts = {"model": "SmolLM2-135M-Instruct", "seeds": [each.facts for each in done]}
    rows = rows_of(done)
    if options.small:  # too little to hold a bar with
        rows = [replace(row, bar="", holds=None) for row in rows]
    return publish(name, rows, facts)


if __name__ == "__main__":
    raise SystemExit(main())
