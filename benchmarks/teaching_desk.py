"""The desk as a world for `teaching.py`: somebody with a habit for every kind of request, and a teacher.

A habit (which seat, which unit, which tool in another one's place) is said nowhere: it is learnt from
accepted calls.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from droc_desk import PEOPLE, Desk, Pools, Wanted, request_of, tools_of

from agentkd.schema import Message, Outcome, Task, ToolCall, ToolResult, ToolSpec, Trajectory
from agentkd.tools import ToolBox

__all__ = ["HABITS", "DeskSuite", "DeskTeacher"]

PERSON = "ann"
HABITS = tuple(wanted for wanted in PEOPLE[PERSON] if wanted.parameter or wanted.instead)
"""What she wants; what is to be left alone has no call and is no exercise."""

_CITIES = (
    "Oslo Lima Rome Cairo Quito Delhi Turin Perth Bonn Osaka Lyon Dakar Minsk Turku Split Bergen Aarhus Gent "
    "Basel Krakow Malmo Nantes Toledo Verona Zagreb Tampere Utrecht Seville Galway Durban",
    "Porto Accra Kyoto Sofia Graz Tunis Leeds Busan Hanoi Riga",
)
_NAMES = (
    "Ortega Lindt Haas Okoye Vidal Brandt Moreau Kovac Santos Weiss Petrov Keller Nielsen Rossi Jansen",
    "Novak Abe Duval Imani Castro",
)
_MONTHS = "January February March April May June July August September October November December"
_GOODS = ("Steel Wood Nails Paper Bolts Tools", "Glass Doors Paint")


def _both(make: Callable[[int], Iterable[Any]]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return tuple(make(0)), tuple(make(1))


_POOLS: Pools = {
    "city": _both(lambda held: _CITIES[held].split()),
    "day": _both(
        lambda held: [f"{day} {month}" for month in _MONTHS.split() for day in range(1 + held, 29, 2)]
    ),
    "month": _both(
        lambda held: [f"{month} {year}" for month in _MONTHS.split() for year in range(2015 + held, 2026, 2)]
    ),
    "customer": _both(
        lambda held: [f"{title} {name}" for title in ("Ms", "Mr") for name in _NAMES[held].split()]
    ),
    "supplier": _both(
        lambda held: [f"{name} {goods}" for name in _NAMES[held].split() for goods in _GOODS[held].split()]
    ),
    "nights": ((2, 3, 4, 8), (5, 6, 7)),
    "order": (tuple(range(1000, 1200)), tuple(range(1200, 1400))),
    "amount": (tuple(range(1000, 1200)), tuple(range(1200, 1400))),
}
_HELD_OUT: Pools = {name: (new, seen) for name, (seen, new) in _POOLS.items()}
"""Held-out tasks come in the wordings that are taught, with values that never are."""


class DeskSuite:
    """Requests at the desk; `known` habits have ground truth, the exam and the held-out tasks ask for all."""

    def __init__(
        self, name: str, seed: int, *, n_known: int, n_ground: int, n_exam: int, n_final: int, final: str
    ) -> None:
        self.name = name
        draw = random.Random(f"teaching-desk-{seed}")
        known = sorted(draw.sample(range(len(HABITS)), n_known))
        self.known = [HABITS[place] for place in known]
        """The habits that the traces cover."""
        self._wanted: dict[str, ToolCall] = {}
        self._splits = {
            "train": self._tasks("train", self.known, n_ground, draw),
            "exam": self._tasks("exam", HABITS, n_exam, draw),
            final: self._tasks(final, HABITS, n_final, draw, _HELD_OUT),
        }

    def _tasks(
        self, split: str, habits: Sequence[Wanted], n: int, draw: random.Random, pools: Pools = _POOLS
    ) -> list[Task]:
        """Return `n` requests, each habit as often as the others, no two alike."""
        tasks: dict[str, Task] = {}
        while len(tasks) < n:
            wanted = habits[len(tasks) % len(habits)]
            asked = request_of(PERSON, wanted, draw, is_new=False, pools=pools)
            if asked.text not in tasks and asked.wanted is not None:
                task_id = f"{split}-{wanted.tool}-{len(tasks) // len(habits)}"
                self._wanted[task_id] = asked.wanted
                tasks[asked.text] = Task(id=task_id, suite=self.name, split=split, prompt=asked.text)
        return list(tasks.values())

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split."""
        return {split: len(tasks) for split, tasks in self._splits.items()}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return the first tasks of a split."""
        return self._splits[split][:n]

    def environment(self, task: Task) -> _OneCall:
        """Open a fresh desk."""
        return _OneCall(Desk())

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Compare the last call that the desk carried out with the one that is wanted."""
        task = trajectory.task
        wanted = self._wanted[task.id]
        done = [
            call
            for step in trajectory.steps
            for call, result in zip(step.accepted_calls, step.results, strict=False)
            if result.ok
        ]
        is_right = bool(done) and (done[-1].name, done[-1].arguments) == (wanted.name, wanted.arguments)
        expected = () if task.is_held_out else (wanted,)
        return Outcome(success=is_right, reward=float(is_right), expected=expected, grader=self.name)

    def baselines(self, train: Sequence[Task], kit: Any) -> Sequence[Any]:
        """Return nothing: the arms are compared with each other."""
        return ()


class _OneCall:
    """The desk's tools; the first call ends the task."""

    def __init__(self, desk: Desk) -> None:
        self._box = ToolBox(tools_of(desk, PERSON))
        self.tools = self._box.tools

    def call(self, call: ToolCall) -> ToolResult:
        return self._box.call(call).model_copy(update={"ends_task": True})

    def close(self) -> None:
        self._box.close()


class DeskTeacher:
    """Writes new requests for the habit behind an accepted call; it knows what is wanted, and no more.

    Its wordings and values are those of the ground truth and the exam; held-out tasks have other values.
    """

    def __init__(self, log: Path, seed: int) -> None:
        self._seed = seed
        written = log.read_text(encoding="utf-8") if log.is_file() else ""
        self._written = {
            item["request"]
            for line in written.splitlines()
            for item in json.loads(json.loads(line)["reply"]["text"])["items"]
        }

    def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
        """Answer one question of a synthesizer."""
        asked = messages[-1].content
        n = int(re.findall(r"Write (\d+) exercises", asked)[0])
        accepted = json.loads(_part("accepted", asked).splitlines()[0])["name"]
        wanted = next(each for each in HABITS if (each.instead or each.tool) == accepted)
        draw = random.Random(f"{self._seed}{asked}{len(self._written)}")
        items: list[dict[str, Any]] = []
        while len(items) < n:
            request = request_of(PERSON, wanted, draw, is_new=False, pools=_POOLS)
            if request.text not in self._written and request.wanted is not None:
                self._written.add(request.text)
                call = {"name": request.wanted.name, "arguments": request.wanted.arguments}
                items.append({"request": request.text, "calls": [call]})
        return json.dumps({"items": items})


def _part(name: str, text: str) -> str:
    found = re.search(rf"<{name}>\n(.*?)\n</{name}>", text, re.DOTALL)
    return found[1] if found else ""
