"""bfcl-live as a world for `teaching.py`: a fold, and a teacher that hands out real items of a pool."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentkd.evaluate import find_leaks
from agentkd.protocols import Kit, Suite
from agentkd.schema import Message, Synthetic, Task, ToolCall, ToolSpec, Trajectory
from agentkd.synthesize import fault_of

__all__ = ["Fold", "PoolTeacher"]


class Fold:
    """bfcl-live with its training split cut by group into `train`, `exam`, `check` and the teacher's pool."""

    def __init__(
        self, name: str, suite: Suite, seed: int, *, n_ground: int, n_exam: int, n_final: int, final: str
    ) -> None:
        self.name = name
        self._suite = suite
        groups: dict[str, list[Task]] = defaultdict(list)
        for task in suite.tasks("train"):
            groups[task.group or task.id].append(task)
        tool = {name: self._tool(group[0]) for name, group in groups.items()}
        tools, order = sorted({*tool.values()}), sorted(groups)
        dice = random.Random(f"teaching-{seed}")
        self.known = frozenset(dice.sample(tools, len(tools) // 2))
        dice.shuffle(order)
        self._splits: dict[str, list[Task]] = {"exam": [], "train": [], "check": []}
        sizes = {"exam": n_exam, "train": n_ground}
        if final == "check":
            sizes["check"] = n_final
        self.pool: list[Task] = []
        for name in order:
            wanting = [
                split
                for split, n in sizes.items()
                if len(self._splits[split]) + len(groups[name]) <= n
                and (split != "train" or tool[name] in self.known)
            ]
            target = self._splits[wanting[0]] if wanting and len(groups[name]) <= 3 else self.pool
            target.extend(groups[name])
        self._splits["holdout"] = list(suite.tasks("holdout"))

    def _tool(self, task: Task) -> str:
        """Return the tool that a request asks for."""
        asked = Trajectory(id="asked", run_id="pool", task=task)
        return str(self._suite.grade(asked).expected[0].name)

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split; the pool is none of them."""
        return {name: len(tasks) for name, tasks in self._splits.items() if tasks}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return a split, or the first `n` of a seeded shuffle."""
        found = [task.model_copy(update={"suite": self.name, "split": split}) for task in self._splits[split]]
        if n is not None and n < len(found):
            random.Random(seed).shuffle(found)
        return found[:n]

    def environment(self, task: Task) -> Any:
        """Make the world of a task."""
        return self._suite.environment(task)

    def grade(self, trajectory: Trajectory) -> Any:
        """Judge a trajectory."""
        return self._suite.grade(trajectory)

    def baselines(self, train: Sequence[Task], kit: Kit) -> Sequence[Any]:
        """Return nothing: the arms are compared with each other."""
        return ()

    def lessons(self) -> list[tuple[str, ToolCall]]:
        """Return the pool with its accepted calls, without what is no item or would be taken for a leak."""
        tools = tuple(self._suite.environment(self.pool[0]).tools)
        found = []
        for task in self.pool:
            outcome = self._suite.grade(Trajectory(id="asked", run_id="pool", task=task))
            call = outcome.expected[0]
            item = Synthetic(
                synthesizer="pool", teacher="pool", seed="", prompt=task.prompt, tools=tools, calls=(call,)
            )
            if not fault_of(item) and not task.system:
                found.append((task.prompt, call))
        held = {t.id: t.prompt for split in ("holdout", "check") for t in self._splits[split]}
        rows = {str(i): [prompt] for i, (prompt, _) in enumerate(found)}
        while leaks := {leak.row_id for leak in find_leaks(held, rows.items).leaks}:
            rows = {key: texts for key, texts in rows.items() if key not in leaks}
        return [found[int(key)] for key in rows]


class PoolTeacher:
    """Hands out unused items of its pool: near a mistake where it is shown one, else at random."""

    def __init__(self, lessons: Sequence[tuple[str, ToolCall]], log: Path, seed: int) -> None:
        self._lessons = list(lessons)
        self._seed = seed
        self._words = [_words(prompt) for prompt, _ in lessons]
        counts = Counter(word for words in self._words for word in words)
        self._rarity = {word: 1.0 / (1 + n) for word, n in counts.items()}
        said = log.read_text(encoding="utf-8") if log.is_file() else ""
        given = {i["request"] for line in said.splitlines() if line for i in _items_of(line)}
        self._free = {i for i, (prompt, _) in enumerate(lessons) if prompt.strip() not in given}

    def __call__(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
        """Answer one question of a synthesizer."""
        asked = messages[-1].content
        n = int(re.findall(r"Write (\d+) exercises", asked)[0])
        chosen = self._near(asked, n) if "<student>" in asked else self._drawn(asked, n)
        self._free -= set(chosen)
        items = [
            {"request": prompt, "calls": [{"name": call.name, "arguments": call.arguments}]}
            for prompt, call in (self._lessons[i] for i in chosen)
        ]
        return json.dumps({"items": items}, ensure_ascii=False)

    def _drawn(self, asked: str, n: int) -> list[int]:
        return random.Random(f"{self._seed}{asked}").sample(sorted(self._free), n)

    def _near(self, asked: str, n: int) -> list[int]:
        """Pick what shares the accepted tool and the rare words of the failed request."""
        accepted = json.loads(_part("accepted", asked).splitlines()[0])["name"]
        request = _words(_part("request", asked))

        def like(i: int) -> tuple[bool, float, int]:
            shared = sum(self._rarity[word] for word in self._words[i] & request)
            return self._lessons[i][1].name == accepted, shared / (1 + len(self._words[i])) ** 0.5, -i

        return sorted(self._free, key=like, reverse=True)[:n]


def _items_of(line: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(json.loads(line)["reply"]["text"])["items"]
    return items


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _part(name: str, text: str) -> str:
    found = re.search(rf"<{name}>\n(.*?)\n</{name}>", text, re.DOTALL)
    return found[1] if found else ""
