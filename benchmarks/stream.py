"""A stream of real requests: does memory earn its place, and does what harms or idles lose it?

    python benchmarks/stream.py                # 200 requests that come and come back twenty times
    python benchmarks/stream.py --small        # 60 requests, twelve rounds, fewer planted memories
    python benchmarks/stream.py --teacher      # with the distillers that ask a model; replies are recorded;
                                               # 28 rounds, since three memories share what two had
    python benchmarks/stream.py --resume       # goes on with the rounds that a killed run has not finished

First every request of `bfcl-live` (training split) arrives once, and memory holds what came before it. Then
users come back: the same requests arrive in every round, in another order. SmolLM2-135M-Instruct acts.
Before they come back harmful memories (a wrong call for three requests) and useless ones (a remark without
content) are planted. Trials withhold memories on most tasks, and the refiner `utility-prune` alone decides
what leaves; nothing tells it what was planted. The actor answers at temperature 0, so what it answered to a
prompt it would answer again: a prompt that comes back is not decoded a second time.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from measure import WORK, Row, above, at_least, at_most, publish
from stream_teacher import BAD_WORDS, record

from agentkd import Workspace, hookimpl
from agentkd.cycle.stage import run_stage
from agentkd.evaluate.statistics import paired_bootstrap
from agentkd.hf import call_text
from agentkd.plugins import Component
from agentkd.protocols import Model
from agentkd.schema import (
    Memory,
    MemoryKeys,
    Message,
    Reply,
    Scope,
    Task,
    ToolCall,
    ToolSpec,
    Utility,
    content_id,
    mean_lift,
    memory_id,
)
from agentkd.schema.lift import common_prior

SUITE, SPLIT, SEED = "bfcl-live", "train-inner", 11
DISTILLERS = ("failure", "success", "contrast", "correction", "strategy", "tool-notes")
REMARKS = (
    "Stay polite and friendly.", "Read the whole request before you begin.", "Work with care.",
    "Good answers make users happy.", "Remember that every request matters.", "Be concise and clear.",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How large a stream is."""

    tasks: int
    rounds: int
    planted: int
    best: int
    batch: int


FULL, SMALL = Size(200, 20, 20, 100, 25), Size(60, 12, 5, 25, 20)


class Remembering:
    """The base model, which answers a prompt that it has answered before without decoding."""

    def __init__(self, model: Model, file: Path) -> None:
        self.name = model.name
        self.n_kept = 0
        self._model = model
        self._file, self._writing = file, threading.Lock()
        self._kept: dict[str, Reply] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            with suppress(ValueError):  # cut off by a kill
                row = json.loads(line)
                self._kept[row["key"]] = Reply.model_validate(row["reply"])

    def reply(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), **sampling: Any) -> Reply:
        """Answer a conversation at temperature 0."""
        if sampling.get("temperature"):
            raise SystemExit("the stream's actor answers at temperature 0")
        told = {name: value for name, value in sampling.items() if name not in ("purpose", "seed")}
        key = content_id("ask", list(messages), list(tools), told)
        if key in self._kept:
            self.n_kept += 1
        else:
            reply = self._kept[key] = self._model.reply(messages, tools, **sampling)
            with self._writing, self._file.open("a", encoding="utf-8") as opened:
                opened.write("\n" + json.dumps({"key": key, "reply": reply.model_dump(mode="json")}))
        return self._kept[key]


class Actor:
    """Offers the actor as a model of the workspace."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "answers.jsonl"

    @hookimpl
    def components(self) -> list[Component[Any]]:
        """Return the model `remembering`."""
        return [Component("model", "remembering", "The base, which keeps its answers.", self._build)]

    def _build(self, settings: Any, kit: Any) -> Remembering:
        return Remembering(kit.model("base"), self._file)


@dataclass
class Stream:
    """One stream over one workspace."""

    workspace: Workspace
    size: Size
    replies: Path | None = None
    accepted: dict[str, ToolCall] = field(default_factory=dict)
    harmful: list[str] = field(default_factory=list)
    useless: list[str] = field(default_factory=list)
    pool: list[int] = field(default_factory=list)

    @property
    def notes(self) -> Path:
        """Where the pool after each finished round is noted."""
        return self.workspace.root / "pool.json"

    @property
    def tasks(self) -> Sequence[Task]:
        """The requests."""
        return self.workspace.parts.suite(SUITE).tasks(SPLIT, self.size.tasks, SEED)

    def run(
        self, run_id: str, tasks: Sequence[Task], *, uses_memory: bool, has_trials: bool = False
    ) -> dict[str, bool]:
        """Run the actor over some requests and return what was done."""
        parts = self.workspace.parts
        run_stage(
            parts, suite=parts.suite(SUITE), tasks=tasks, run_id=run_id, model="remembering",
            uses_memory=uses_memory, label=run_id, has_trials=has_trials,
        )  # fmt: skip
        return {t.task.id: t.success for t in self.workspace.ledger.trajectories.list(run_id=run_id)}

    def alone(self) -> dict[str, bool]:
        """Run every request without memory; nothing is learnt from it, but the right calls are noted."""
        done = self.run("alone", self.tasks, uses_memory=False)
        for trajectory in self.workspace.ledger.trajectories.list(run_id="alone"):
            if trajectory.outcome and trajectory.outcome.expected:
                self.accepted[trajectory.task.id] = trajectory.outcome.expected[0]
        if self.replies is not None:
            record(self.replies, self.tasks, self.accepted)
        return done

    def plant(self) -> None:
        """Plant harmful and useless memories among the requests that will come."""
        order = [task for task in self.tasks if task.id in self.accepted]
        random.Random(SEED).shuffle(order)
        for n in range(self.size.planted):
            three = order[3 * n : 3 * n + 3]
            own = self.accepted[three[0].id].name
            wrong = next(call for call in self.accepted.values() if call.name != own)
            self.harmful.append(
                self._plant("case", three, f"Request: {three[0].prompt}\nCall: {wrong.name}", wrong)
            )
        for n in range(self.size.planted):
            start = 3 * (self.size.planted + n)
            three = [order[(start + i) % len(order)] for i in range(3)]
            self.useless.append(self._plant("insight", three, f"{REMARKS[n % len(REMARKS)]} ({n})", None))

    def _plant(self, kind: Any, three: Sequence[Task], content: str, call: ToolCall | None) -> str:
        scope = Scope(app=SUITE)
        memory = Memory(
            id=memory_id(kind, three[0].prompt, content, scope),
            kind=kind,
            when_to_use=three[0].prompt,
            content=content,
            keys=MemoryKeys(situation=three[0].prompt, query=three[1].prompt, task=three[2].prompt),
            scope=scope,
            calls=(call,) if call else (),
            origin="planted",
        )
        if self.workspace.ledger.memories.get_many([memory.id]):  # by the run that this one goes on with
            return memory.id
        answer = self.workspace.memory.admit([memory])[0]
        if answer.outcome != "stored":
            raise SystemExit(f"a planted memory was {answer.outcome}: {answer.reason}")
        return answer.memory_id

    def arrive(self) -> dict[str, bool]:
        """Let every request arrive for the first time; each batch learns from those before it."""
        return self._learn("first", self.tasks, has_trials=False, is_done=bool(self.pool))

    def round(self, number: int) -> dict[str, bool]:
        """Let every request come back once, with trials, and refine at the end."""
        order = list(self.tasks)
        random.Random(f"{SEED}-{number}").shuffle(order)
        is_done = number <= len(self.pool)
        done = self._learn(f"round-{number}", order, has_trials=True, is_done=is_done)
        if is_done:
            return done
        parts = self.workspace.parts
        edits = self.workspace.memory.refine(parts.refiners(), parts)
        status = Counter(self.workspace.ledger.memories.status_for("base").values())
        self.pool.append(status["active"])
        self.notes.write_text(json.dumps(self.pool), encoding="utf-8")
        print(
            f"round {number}: {sum(done.values())} of {len(done)} done, {len(edits)} edits, "
            f"{status['active']} active, {status['quarantined']} quarantined, harmful still active "
            f"{self.active(self.harmful)}, useless still active {self.active(self.useless)}",
            flush=True,
        )
        return done

    def _learn(self, name: str, order: Sequence[Task], *, has_trials: bool, is_done: bool) -> dict[str, bool]:
        """Run some requests and learn from them; what `is_done` is read from the ledger."""
        done: dict[str, bool] = {}
        for start in range(0, len(order), self.size.batch):
            run_id, part = f"{name}-{start}", order[start : start + self.size.batch]
            done |= self.run(run_id, part, uses_memory=True, has_trials=has_trials)
            if not is_done:
                self.workspace.distill(run_id)
        return done

    def active(self, ids: Sequence[str]) -> int:
        """Return how many of these memories are still recalled."""
        return sum(memory.status == "active" for memory in self.workspace.ledger.memories.get_many(ids))

    def best(self, worth: Callable[[Utility], float]) -> list[Memory]:
        """Return the best of the learnt memories by what their counters are worth."""
        planted = {*self.harmful, *self.useless}
        learnt = [m for m in self.workspace.ledger.memories.list() if m.id not in planted]
        learnt.sort(key=lambda m: (-worth(m.utility), m.utility.held_out_wins, m.id))
        return learnt[: self.size.best]


def largest_pool(size: Size, replies: Path | None) -> int:
    """Return the bound of the pool: one memory a request, or two with a teacher, and what was planted."""
    return size.tasks * (2 if replies else 1) + 2 * size.planted


def settings(size: Size, replies: Path | None) -> dict[str, Any]:
    """Return the settings of the stream: few notes a prompt, trials on most tasks, a pool with an end.

    A request has one right memory, or two with a teacher, and what is planted needs a place beside them.
    """
    prune = {
        "band": 0.1, "keep": size.best, "max_pool": largest_pool(size, replies), "unused_days": 0.0,
    }  # fmt: skip
    if size is SMALL:  # too short for the evidence that the defaults ask for
        prune |= {"useless_tasks": 9, "useless_withheld": 3, "useless_above": 0.5}
    chosen: dict[str, Any] = {
        "cycle": {"suite": SUITE},
        "memory": {
            "k": 3 if replies else 2, "max_gap": 0.1, "trial_share": 0.65, "trial_all": 0.05,
            "refiners": ["utility-prune"],
        },
        "refiner": {"utility-prune": prune},
    }  # fmt: skip
    if replies is not None:
        chosen["roles"] = {"distiller": "scripted:teacher"}
        chosen["model"] = {"scripted": {"replies": str(replies)}}
        chosen["distill"] = {"distillers": list(DISTILLERS), "max_memories_per_trajectory": 2}
        chosen["distiller"] = {"strategy": {"max_scenarios": 1, "max_probes": 3, "rounds": 1}}
    return chosen


def measure(stream: Stream) -> list[Row]:
    """Run the whole stream and return its figures."""
    alone = stream.alone()
    first = stream.arrive()
    stream.plant()
    rounds = [stream.round(number + 1) for number in range(stream.size.rounds)]
    ids = sorted(alone)
    rows = []
    for name, chosen in (("requests that are new", [first]), ("requests that come back", rounds)):
        ours = [sum(done[id_] for done in chosen) / len(chosen) for id_ in ids]
        gain = paired_bootstrap(ours, [float(alone[id_]) for id_ in ids], seed=SEED)
        rows.append(
            above(
                f"{name}: gain in success over no memory", gain.value, gain.low, 0.0, high=gain.high,
                n=len(ids), peer=sum(alone.values()) / len(ids), peer_name="success without memory",
            )
        )  # fmt: skip
        rows.append(Row(f"{name}: success with memory", sum(ours) / len(ours), n=len(ids)))
    size = stream.size
    rows.append(_unharmed(rounds, ids))
    if stream.replies is not None:
        bad = [m for m in stream.workspace.ledger.memories.list() if BAD_WORDS in f"{m.content} {m.calls}"]
        rows.append(at_most("memories from the teacher's bad replies", len(bad), 0))
    return [
        *rows,
        at_least("harmful memories quarantined", size.planted - stream.active(stream.harmful), size.planted),
        at_least("useless memories pruned", size.planted - stream.active(stream.useless), size.planted),
        *_kept(stream),
        at_most("largest pool of active memories", max(stream.pool), largest_pool(size, stream.replies)),
    ]


def _kept(stream: Stream) -> list[Row]:
    """Return how many of the best are still active: those shown with most tasks that were done, and those
    that gained most tasks by their measured lift. Of two that give the same call one may do.
    """
    given = {called(m) for m in stream.workspace.ledger.memories.list() if m.status == "active" and m.calls}
    rows = []
    for name, worth in (("with most wins", lambda u: u.wins), ("that gained most tasks", gained)):
        best = stream.best(worth)
        away = [memory for memory in best if memory.status != "active"]
        label = f"of the {len(best)} {name},"
        rows += [
            at_least(f"{label} still active", len(best) - len(away), len(best)),
            Row(
                f"{label} gone without another one that gives the same call",
                sum(called(m) not in given for m in away),
            ),
        ]
    return rows


def gained(utility: Utility) -> float:
    """Return how many tasks a memory gained: those that saw it, times its lift."""
    return utility.recalls * mean_lift(utility, common_prior(utility))


def _unharmed(rounds: Sequence[dict[str, bool]], ids: Sequence[str]) -> Row:
    """Return whether what left cost the requests nothing: the last rounds beside the first ones."""
    first, last = (
        [sum(done[id_] for done in some) / len(some) for id_ in ids] for some in (rounds[:3], rounds[-3:])
    )
    change = paired_bootstrap(last, first, seed=SEED)
    return above(
        "success of the last three rounds less that of the first three", change.value, change.low, -0.05,
        high=change.high, n=len(ids), peer=sum(first) / len(first), peer_name="success of the first three",
    )  # fmt: skip


def called(memory: Memory) -> str:
    """Return the calls of a memory as a model writes them."""
    return "\n".join(map(call_text, memory.calls))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="under five minutes")
    parser.add_argument("--teacher", action="store_true", help="with distillers that ask a scripted teacher")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was killed")
    options = parser.parse_args()
    size = SMALL if options.small else replace(FULL, rounds=28) if options.teacher else FULL
    name = "stream" + ("-teacher" if options.teacher else "") + ("-small" if options.small else "")
    folder = WORK / name
    if not options.resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    replies = folder.with_suffix(".replies.jsonl") if options.teacher else None
    with Workspace(folder, settings=settings(size, replies), plugins=[Actor(folder)]) as workspace:
        stream = Stream(workspace, size, replies)
        if stream.notes.is_file():
            stream.pool = json.loads(stream.notes.read_text(encoding="utf-8"))
        rows = measure(stream)
        facts = {"seed": SEED, "actor": workspace.model("base").name, "size": vars(size), "pool": stream.pool}
    return publish(name, rows, facts)


if __name__ == "__main__":
    raise SystemExit(main())
