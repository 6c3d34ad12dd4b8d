"""Turns views into tokens with a loss weight each, and rows back into text that can be looked at.

A completion is what the chat template adds when the target is added to the prompt, so that no marker of any
template is ever searched for. Texts of the history are found by rendering the same turns with placeholders.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any

from agentkd import hf
from agentkd.compiler.encode import Encoder
from agentkd.compiler.template import Spans, Template
from agentkd.config import RoleWeights
from agentkd.schema import Example, Message, Rendered

__all__ = ["RowRefused", "RowRenderer", "describe_row", "emphasised"]

_TOOL_PREFIX = hf.as_text(Message(role="tool"))


class RowRefused(Exception):
    """A row cannot be trained on; the message is the reason that the card counts."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(reason)
        self.cure = cure


@dataclass(frozen=True)
class _Head:
    """A prompt, rendered once for all that is said after it."""

    view: Sequence[Message]
    turns: list[dict[str, str]]
    text: str
    ids: tuple[int, ...]
    spans: Spans


class RowRenderer:
    """Renders the rows of one base model; what it returns was checked by decoding it."""

    def __init__(self, tokenizer: Any, max_tokens: int, weights: RoleWeights | None = None) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._weights = weights or RoleWeights()
        self._template = Template(tokenizer)
        self._specials = hf.special_tokens(tokenizer)
        self._ends = hf.end_ids(tokenizer)
        self._encoder = Encoder(tokenizer)
        self._head: _Head | None = None

    def render(
        self,
        view: Sequence[Message],
        target: Message,
        *,
        name: str = "row",
        weighed: Collection[int] = (),
        like: Message | None = None,
    ) -> Rendered:
        """Return a view and its target as tokens, `[time]`.

        Tool results and earlier turns at the places `weighed` of the view get the weights that the settings
        give them. A rejected answer weighs what the right one does, which is `like` then. Raises RowRefused
        for a row that is longer than `max_tokens` (it is never cut), that cannot be rendered exactly, or in
        which nothing has a weight; TemplateFault where no row could be.
        """
        head = self._prompt(view, name)
        completion = self._completion(head, target, name)
        if len(head.ids) + len(completion) > self.max_tokens:
            raise _too_long(name, len(head.ids) + len(completion), self.max_tokens)
        weight = self._weights.tool_call if (like or target).tool_calls else self._weights.assistant
        before = self._history(head, weighed)
        if not weight and not any(before):
            raise RowRefused(
                f"{name} in which no token has a weight",
                "raise the weight in `[compile.role_weights]`: nothing in such a row would be learnt",
            )
        weights = (*before, *(float(weight),) * len(completion))
        return Rendered.model_construct(ids=(*head.ids, *completion), weights=weights)

    def prompt(self, view: Sequence[Message], *, name: str = "row") -> Rendered:
        """Return a view alone, without a single weight."""
        head = self._prompt(view, name)
        return Rendered.model_construct(ids=head.ids, weights=(0.0,) * len(head.ids))

    def _prompt(self, view: Sequence[Message], name: str) -> _Head:
        if self._head is not None and self._head.view is view:
            return self._head
        turns = hf.chat_turns(view, self._specials)
        text = self._template.text(turns, True)
        spans = self._template.spans(turns, text)
        if spans is None:
            raise RowRefused(
                f"{name} whose texts the chat template edits",
                "take the model's own chat_template.jinja, or leave such texts out of the runs",
            )
        self._head = _Head(view, turns, text, tuple(self._encode(text, name)), spans)
        return self._head

    def _completion(self, head: _Head, target: Message, name: str) -> list[int]:
        """Return the tokens of a target, its end-of-turn token last."""
        said = hf.chat_turns([target], self._specials)[0]
        whole = self._template.text([*head.turns, said], False)
        exact = RowRefused(
            f"{name} cannot be rendered exactly",
            "its target is empty or holds a special token, or the chat template changes what is said",
        )
        if not whole.startswith(head.text):
            raise exact
        ids = self._encode(whole[len(head.text) :], name)
        stop = next((place for place, token in enumerate(ids) if token in self._ends), 0)
        if not stop or _decode(self.tokenizer, ids[:stop]) != hf.as_text(target):
            raise exact
        return ids[: stop + 1]

    def _history(self, head: _Head, weighed: Collection[int]) -> tuple[float, ...]:
        """Return the weight of every token of a prompt: of tool results and of earlier assistant turns."""
        weights = [0.0] * len(head.ids)
        if not weighed or not (self._weights.observation or self._weights.history):
            return tuple(weights)
        offsets = self._encoder.offsets(head.text)
        for weight, start, end, is_turn in self._pieces(head, weighed):
            last = None
            for place, (begins, ends) in enumerate(offsets):
                if start <= begins < ends <= end:
                    weights[place], last = weight, place
            if is_turn and last is not None and last + 1 < len(weights) and head.ids[last + 1] in self._ends:
                weights[last + 1] = weight
        return tuple(weights)

    def _pieces(self, head: _Head, weighed: Collection[int]) -> list[tuple[float, int, int, bool]]:
        """Return (weight, start, end, whether a turn ends there) of the weighted texts of a prompt."""
        found: list[tuple[float, int, int, bool]] = []
        number, at, previous = -1, 0, ""
        for place, message in enumerate(head.view):
            turn = hf.chat_turns([message], self._specials)[0]
            if number < 0 or not turn["role"] == previous == "user":  # as `chat_turns` merges turns
                number, at = number + 1, 0
            else:
                at += len("\n\n")
            start, end = head.spans[number]
            said, previous = turn["content"], turn["role"]
            is_whole = place in weighed and end - start == len(head.turns[number]["content"])
            if is_whole and message.role == "tool" and self._weights.observation:
                begins = start + at + len(_TOOL_PREFIX.rstrip())  # a word takes the space before it
                found.append((self._weights.observation, begins, start + at + len(said), False))
            elif is_whole and message.role == "assistant" and self._weights.history:
                found.append((self._weights.history, start + at, start + at + len(said), True))
            at += len(said)
        return found

    def _encode(self, text: str, name: str) -> list[int]:
        try:
            return self._encoder.ids(text)
        except (TypeError, UnicodeEncodeError):
            raise RowRefused(
                f"{name} with text that is no Unicode", "lone surrogates cannot be encoded"
            ) from None


def emphasised(right: Rendered, wrong: Rendered, factor: float) -> tuple[Rendered, Rendered]:
    """Return a corrected row and its wrong answer; the tokens in which they differ weigh `factor` as much.

    Both rows share their prompt; the longest runs of equal tokens are what does not differ, and weigh the
    same in both.
    """
    rows = (right, wrong)
    starts = [next((t for t, weight in enumerate(row.weights) if weight), 0) for row in rows]
    said, other = (row.ids[start:] for row, start in zip(rows, starts, strict=True))
    weights = [list(row.weights) for row in rows]
    for tag, begin, end, other_begin, other_end in SequenceMatcher(
        None, said, other, autojunk=False
    ).get_opcodes():
        if tag != "equal":
            for side, places in enumerate((range(begin, end), range(other_begin, other_end))):
                for place in places:
                    weights[side][starts[side] + place] *= factor
    return (
        Rendered(ids=right.ids, weights=tuple(weights[0])),
        Rendered(ids=wrong.ids, weights=tuple(weights[1])),
    )


def describe_row(example: Example, tokenizer: Any) -> list[tuple[str, float]]:
    """Return the student's row as (text, loss weight) pieces of equal weight, special tokens shown."""
    pairs = zip(example.student.ids, example.student.weights, strict=True)
    return [
        (_decode(tokenizer, [token for token, _ in run]), weight)
        for weight, run in groupby(pairs, key=lambda pair: pair[1])
    ]


def _too_long(name: str, n: int, most: int) -> RowRefused:
    return RowRefused(
        f"{name} longer than {most} tokens",
        f"the first has {n}: raise `[train] max_tokens_per_row`, or shorten what tools answer",
    )


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
