"""A stream of corrections (DROC): does an agent that is corrected need fewer corrections the next time?

    python benchmarks/droc.py            # 60 tasks, three rounds, three seeds
    python benchmarks/droc.py --small    # one seed

Two people with contradicting wishes give 30 tasks each per round to an agent with real tools on SQLite.
Every call waits; a scripted corrector edits or refuses it where it is not what the person wants, without a
word. The corrections go the way of every workspace: interrupt, ledger, distiller `correction` without a
model, admission, index, recall, prompt. Round 2 brings other values, round 3 wordings and values that never
came up.

The actor is a rule and no language model, so that the figure tells what memory hands over and not what a
model makes of it. It fills what a request leaves open with the first choice of the tool's schema, unless its
prompt tells otherwise: a note (`When calling X, set p to v`, `Call X in place of Y`, `Do not call X`), or
else the example of a call of the same tool that stands nearest to the request. It reads its prompt alone.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from droc_desk import PEOPLE, Desk, Request, requests_of, tools_of, wordings
from measure import WORK, Row, at_least, at_most, publish

from agentkd import Workspace
from agentkd.agents import Approve, Edit, PausedRun, Reject
from agentkd.schema import NOTES_BEGIN, NOTES_END, Message, Reply, Task, ToolCall, ToolSpec, Usage

ROUNDS, N_EACH, SEEDS = 3, 3, (0, 1, 2)
MAX_CORRECTIONS = 4
"""So many corrections of one task, and the person gives up."""

_NOTES = re.compile(f"{re.escape(NOTES_BEGIN)}(.*?){re.escape(NOTES_END)}", re.DOTALL)
_SET = re.compile(r"When calling `(\w+)`, set `(\w+)` to ('[^']*'|\d+)\.")
_INSTEAD = re.compile(r"Call `(\w+)` in place of `(\w+)`\.")
_EXAMPLE = re.compile(r"^Call: (\{.*\})$", re.MULTILINE)  # the nearest example stands last
_NEVER = re.compile(r"Do not call `(\w+)`")


class RuleActor:
    """Reads the request and the notes of its prompt, and does what they say; knows nothing else."""

    name = "rule-actor"
    reads_tools = True

    def __init__(self) -> None:
        self._patterns = [(w.tool, _pattern(w.text)) for w in wordings()]

    def reply(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), **sampling: Any) -> Reply:
        """Answer a tool's result in words, and a request with a call."""
        notes = "\n".join(n for m in messages for n in _NOTES.findall(m.content))
        call = None if messages[-1].role == "tool" else self._call(messages[1].content, notes, tools)
        if call is None:
            return Reply(text="That is all I do here.", usage=Usage(usd=0.0))
        return Reply(tool_calls=(call,), usage=Usage(usd=0.0))

    def _call(self, prompt: str, notes: str, tools: Sequence[ToolSpec]) -> ToolCall | None:
        request = prompt.rpartition("Request: ")[2]
        name, said = self._understood(request)
        if name in _NEVER.findall(notes):
            return None
        name = {old: new for new, old in _INSTEAD.findall(notes)}.get(name, name)
        spec = next(tool for tool in tools if tool.name == name)
        examples = [ToolCall.model_validate_json(text) for text in _EXAMPLE.findall(notes)]
        known = {p: v for example in examples if example.name == name for p, v in example.arguments.items()}
        known |= {p: ast.literal_eval(v) for tool, p, v in _SET.findall(notes) if tool == name}
        arguments = {}
        for parameter, schema in spec.parameters["properties"].items():
            if parameter in said:
                arguments[parameter] = _typed(said[parameter], schema)
            else:
                arguments[parameter] = known.get(parameter, schema["enum"][0])
        return ToolCall(name=name, arguments=arguments)

    def _understood(self, request: str) -> tuple[str, dict[str, str]]:
        for tool, pattern in self._patterns:
            found = pattern.fullmatch(request.strip())
            if found:
                return tool, found.groupdict()
        raise ValueError(f"the actor does not understand {request!r}")


def _pattern(text: str) -> re.Pattern[str]:
    numbers = ("order", "amount", "nights")
    parts = re.split(r"\{(\w+)\}", text)
    slots = [rf"(?P<{p}>{r'[0-9]+' if p in numbers else r'[A-Za-z0-9 ]+?'})" if i % 2 else re.escape(p)
             for i, p in enumerate(parts)]  # fmt: skip
    return re.compile("".join(slots))


def _typed(value: str, schema: dict[str, Any]) -> Any:
    return int(value) if schema.get("type") == "integer" else value


@dataclass(frozen=True)
class Outcome:
    """How one task went."""

    n_corrections: int
    is_right: bool


def serve(agent: Any, request: Request, desk: Desk, run_id: str) -> Outcome:
    """Let the agent do a request while the person decides on every call, and look at what was done."""
    before = len(desk.deeds())
    run = agent.run(Task(id=request.id, prompt=request.text), run_id=run_id)
    n_corrections = 0
    while isinstance(run, PausedRun) and n_corrections <= MAX_CORRECTIONS:
        decision: Any = Approve()
        if request.wanted is None:
            decision = Reject()
        elif (run.call.name, run.call.arguments) != (request.wanted.name, request.wanted.arguments):
            decision = Edit(call=request.wanted)
        n_corrections += not isinstance(decision, Approve)
        run = agent.resume(run.thread_id, decision)
    wanted = [] if request.wanted is None else [request.wanted.model_dump_json(exclude={"id"})]
    done = [_sorted(deed) for deed in desk.deeds()[before:]]
    return Outcome(n_corrections, done == [_sorted(deed) for deed in wanted])


def _sorted(deed: str) -> tuple[str, list[tuple[str, Any]]]:
    call = ToolCall.model_validate_json(deed)
    return call.name, sorted(call.arguments.items())


def play(folder: Path, seed: int, number: int, *, recall: bool) -> tuple[list[Outcome], float]:
    """Play one round of both people; returns the outcomes and the ledger's own figure."""
    desk, outcomes, figures = Desk(), [], []
    for person in PEOPLE:
        with open_for(folder, person) as workspace:
            tools = tools_of(desk, person)
            agent = workspace.agent(
                tools, model=RuleActor(), recall=recall, interrupt_on=[each.spec.name for each in tools]
            )
            run_id = f"round-{number + 1}-{person}-{'recall' if recall else 'bare'}"
            requests = requests_of(person, number, seed, N_EACH)
            outcomes += [serve(agent, request, desk, run_id) for request in requests]
            figures += [r.per_task for r in workspace.ledger.corrections.rounds() if r.run_id == run_id]
            if recall:
                workspace.distill(run_id)
    return outcomes, mean(figures)


def open_for(folder: Path, person: str, **memory: Any) -> Workspace:
    """Open the workspace as one person's: what they teach carries their name."""
    return Workspace(
        folder,
        settings={
            "memory": {"scope": {"user": person}, **memory},
            "distill": {"distillers": ["correction"]},
            "plugins": {"auto": False},
        },
    )


def interval(counts: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of a mean over tasks."""
    draw = random.Random(seed)
    means = sorted(mean(draw.choices(counts, k=len(counts))) for _ in range(2000))
    return means[49], means[1949]


def main() -> int:
    """Play the stream for each seed and publish corrections per task by round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one seed")
    is_small = parser.parse_args().small
    seeds = SEEDS[:1] if is_small else SEEDS
    rounds: list[list[Outcome]] = [[] for _ in range(ROUNDS)]
    bare: list[Outcome] = []
    ledgers: list[list[float]] = []
    for seed in seeds:
        folder = WORK / f"droc-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        figures = []
        for number in range(ROUNDS):
            outcomes, figure = play(folder, seed, number, recall=True)
            rounds[number] += outcomes
            figures.append(figure)
            print(f"seed {seed}, round {number + 1}: {figure:.2f} corrections per task", file=sys.stderr)
        bare += play(folder, seed, ROUNDS - 1, recall=False)[0]
        ledgers.append(figures)
    per_task = [mean(o.n_corrections for o in outcomes) for outcomes in rounds]
    facts = {"seeds": seeds, "per_seed": ledgers, "tasks_per_round": len(rounds[0]) // len(seeds),
             "actor": "a rule that follows the notes of its prompt; no language model"}  # fmt: skip
    return publish("droc-small" if is_small else "droc", _rows(rounds, bare, per_task), facts)


def _rows(rounds: list[list[Outcome]], bare: list[Outcome], per_task: list[float]) -> list[Row]:
    first, second, third = rounds
    alone = mean(o.n_corrections for o in bare)

    def spread(outcomes: Sequence[Outcome]) -> dict[str, Any]:
        low, high = interval([o.n_corrections for o in outcomes])
        return {"low": low, "high": high, "n": len(outcomes)}

    ratio = per_task[1] / per_task[0]
    return [
        Row("rule actor, corrections per task, round 1", per_task[0], **spread(first)),
        Row("rule actor, corrections per task, round 2", per_task[1], **spread(second)),
        at_most("rule actor, round 2 as a share of round 1", ratio, 0.5, n=len(second)),
        Row("rule actor, corrections per task, round 3, unseen", per_task[2], "< 0.1", per_task[2] < 0.1,
            peer=alone, peer_name="without memory", **spread(third)),
        Row("rule actor, corrections per task, round 3, no memory", alone, **spread(bare)),
        at_least("tasks of round 3 done as the person wants", mean(o.is_right for o in third), 1.0,
                 n=len(third)),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
