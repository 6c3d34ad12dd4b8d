"""The teacher of `teaching.py`: an honest script that hands out real items of a pool, and knows no more."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentkd.schema import Message, ToolCall, ToolSpec

__all__ = ["PoolTeacher"]


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
