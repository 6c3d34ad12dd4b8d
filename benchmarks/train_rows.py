"""Rows for the training benchmarks: real requests and conversations as token ids with labels.

`shared`: what an agent's dataset looks like. Half are requests under one system prompt with tools and
remembered lessons; half are turns of conversations, each with everything before it (policy cut to what a
small model takes). `distinct`: the same sources without anything in common at the front: whole
conversations without the policy, and requests that name their tool after the request. `twins`: 64
completions after one long prompt.

Requests come from the train split of `bfcl-live`; held-out tasks are never read. Conversations are
published runs of an airline agent, from the data folder. No chat template is used: a base model has none,
and all arms take ids.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("AGENTKD_DATA") or Path(__file__).parents[2] / "shared" / "data")
BFCL = "wheel:bfcl-eval==2026.3.23"
CONVERSATIONS = DATA / "tau" / "gpt-4o-airline.trials01.json"
MARKERS = {
    "<|im_start|>": ("<|im_start|>", "<|im_end|>"),
    "<start_of_turn>": ("<start_of_turn>", "<end_of_turn>"),
}
SEED = 7
N_TOOLS, LONG_DOCUMENT, POLICY_CHARACTERS, MAX_TOKENS = 3, 950, 1500, 896  # documents in characters
N_TURNS = 5  # of one conversation
LESSONS = (
    "Write numbers as numbers and leave out what the user did not ask for.",
    "A city is written with its state or country, such as `Austin, TX`.",
    "Take the tool whose description names the task; never invent a tool.",
)


@dataclass(frozen=True)
class Row:
    """Token ids and a flag per token: 1 where it is predicted."""

    ids: tuple[int, ...]
    is_label: tuple[int, ...]


Piece = tuple[str, str, bool]
"""Role, text, whether the text is predicted."""


class Writer:
    """Writes turns with a tokenizer's own turn markers."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a fast tokenizer that knows one pair of turn markers."""
        known = tokenizer.get_vocab()
        start, end = next(pair for first, pair in MARKERS.items() if first in known)
        self._text: Callable[[str], list[int]] = lambda text: tokenizer.encode(text, add_special_tokens=False)
        self._start, self._end, self._line = known[start], known[end], self._text("\n")
        is_added = tokenizer.bos_token_id is not None and tokenizer.bos_token_id != self._start
        self._first = [tokenizer.bos_token_id] if is_added else []

    def row(self, turns: Sequence[Piece], max_tokens: int) -> Row | None:
        """Return the turns as a row, cut before the first that does not fit; None without labels."""
        ids, flags = list(self._first), [0] * len(self._first)
        for role, text, is_label in turns:
            head = [self._start, *self._text(f"{role}\n")]
            said = [*self._text(text), self._end]
            if len(ids) + len(head) + len(said) > max_tokens:
                break
            ids += [*head, *said, *self._line]
            flags += [0] * len(head) + [int(is_label)] * len(said) + [0] * len(self._line)
        if not any(flags):
            return None
        last = len(flags) - flags[::-1].index(1)
        return Row(tuple(ids[:last]), tuple(flags[:last]))


def row_sets(tokenizer: Any, cache: Path, n: int) -> dict[str, list[Row]]:
    """Return about `n` rows of `shared` and of `distinct`, and the 64 of `twins` that share 1,024 tokens."""
    writer, draw = Writer(tokenizer), random.Random(SEED)
    requests, documents = _requests(cache)
    draw.shuffle(requests)
    runs = _conversations()
    draw.shuffle(runs)
    asks = Counter(tool for _, tool, _ in requests if len(documents[tool]) < LONG_DOCUMENT)
    tools = sorted(tool for tool, _ in asks.most_common(N_TOOLS))
    asked = [request for request in requests if request[1] in tools]
    head = "You are an assistant that answers with one call.\n\n# Tools\n" + "\n".join(
        documents[t] for t in tools
    )
    head += "\n\n# Lessons\n" + "\n".join(f"- {lesson}" for lesson in LESSONS)
    half = n // 2
    calls = [
        [("system", head, False), ("user", r, False), ("assistant", c, True)] for r, _, c in asked[:half]
    ]
    turns = [turn for run in runs for turn in _turns(run)]
    shared = [*_rows(writer, calls, half), *_rows(writer, turns, n - half)]
    apart = [
        [("user", f"{r}\n\nTool:\n{documents[t]}", False), ("assistant", c, True)]
        for r, t, c in requests[-half:]
    ]
    whole = [[(role, text, role == "assistant") for role, text in run[1:]] for run in runs]
    distinct = [*_rows(writer, apart, half), *_rows(writer, whole, n - half)]
    return {"shared": shared, "distinct": distinct, "twins": _twins(writer, runs, asked, documents)}


def _rows(writer: Writer, every: Sequence[Sequence[Piece]], n: int) -> list[Row]:
    made = (writer.row(turns, MAX_TOKENS) for turns in every)
    found = list(dict.fromkeys(row for row in made if row is not None))  # repeated rows would flatter sharing
    return found[:n]


def _turns(run: Sequence[tuple[str, str]]) -> Iterator[list[Piece]]:
    """Yield one row for each reply of the agent: the policy, what was said before, the reply."""
    policy = run[0][1][:POLICY_CHARACTERS].rsplit("\n", 1)[0]
    past: list[Piece] = [("system", policy, False)]
    for role, text in run[1 : 2 * N_TURNS + 1]:
        if role == "assistant":
            yield [*past, (role, text, True)]
        past.append((role, text, False))


def _twins(
    writer: Writer, runs: Sequence[Sequence[tuple[str, str]]], asked: Sequence[Any], documents: dict[str, str]
) -> list[Row]:
    """64 answers after one prompt of 1,024 tokens."""
    text = runs[0][0][1] + "\n" + "\n".join(documents.values())
    prompt = writer.row([("system", text, True)], 1 << 20)
    assert prompt is not None
    front = prompt.ids[:1024]
    answers = [writer.row([("assistant", call, True)], 256) for *_, call in asked]
    rows = [
        Row((*front, *answer.ids), ((0,) * len(front)) + answer.is_label)
        for answer in answers
        if answer is not None
    ]
    return [rows[number % len(rows)] for number in range(64)]


def _requests(cache: Path) -> tuple[list[tuple[str, str, str]], dict[str, str]]:
    """Return (request, tool, call) of the train split, and each tool's documentation."""
    from agentkd_bfcl.answer import accepted_call
    from agentkd_bfcl.data import read_rows
    from agentkd_bfcl.selection import select
    from agentkd_bfcl.settings import BfclLiveSettings

    from agentkd.hf import call_text
    from agentkd.models.source import fetch

    selection = select(read_rows(fetch(BFCL, cache_dir=cache)), BfclLiveSettings())
    documents = {
        tool.name: json.dumps(
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            ensure_ascii=False,
        )
        for tool in selection.tools
    }
    answered = [(item, accepted_call(item.tool, item.row.answer)) for item in selection.splits["train"]]
    return [(item.row.prompt, call.name, call_text(call)) for item, call in answered if call], documents


def _conversations() -> list[list[tuple[str, str]]]:
    """Return published runs as (role, text); calls are written as JSON, results as the tool's turn."""
    if not CONVERSATIONS.is_file():
        raise SystemExit(f"no conversations at {CONVERSATIONS}: set AGENTKD_DATA to the folder with `tau`")
    runs = json.loads(CONVERSATIONS.read_text(encoding="utf-8"))
    return [[(message["role"], _said(message)) for message in run["traj"]] for run in runs]


def _said(message: dict[str, Any]) -> str:
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    parts = [message.get("content") or "", *(f"{call['name']}({call['arguments']})" for call in calls)]
    return "\n".join(part for part in parts if part)
