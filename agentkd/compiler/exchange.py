"""Rows in the shapes that other trainers read as they are: TRL's two and OpenAI's fine-tuning file.

Messages hold exactly the turns that our own renderer hands to the chat template, calls as JSON text and tool
results as user turns, so that another trainer with the same template arrives at the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from agentkd import hf
from agentkd.schema import Example, Message

__all__ = ["FORMATS", "SharedRows", "export_lines"]

Fields = dict[str, Any]


class SharedRows:
    """Writes rows as messages; one tokenizer tells which texts must be broken up."""

    def __init__(self, tokenizer: Any) -> None:
        self._specials = hf.special_tokens(tokenizer) if tokenizer is not None else ()

    def sft(self, example: Example) -> Fields | None:
        """Return `prompt` and `completion` as message lists for TRL's SFTTrainer; None without a target."""
        if example.kind == "negative":
            return None
        return {
            **_facts(example),
            "prompt": self._turns(example.student_view),
            "completion": self._turns([example.target]),
        }

    def dpo(self, example: Example) -> Fields | None:
        """Return `prompt`, `chosen` and `rejected` for TRL's DPOTrainer; None where there is no pair."""
        if example.rejected is None or example.student_rejected is None or example.kind == "negative":
            return None
        return {
            **_facts(example),
            "prompt": self._turns(example.student_view),
            "chosen": self._turns([example.target]),
            "rejected": self._turns([example.rejected]),
        }

    def openai(self, example: Example) -> Fields | None:
        """Return a line of a fine-tuning file: `messages` with tool calls; None without a target."""
        if example.kind == "negative":
            return None
        return {"messages": _openai_messages([*example.student_view, example.target])}

    def lines(self, example: Example) -> dict[str, str]:
        """Return the lines of a row for the files beside the dataset, by the name that they begin with."""
        shapes = {"sft": self.sft(example), "dpo": self.dpo(example)}
        return {name: _line(fields) for name, fields in shapes.items() if fields is not None}

    def _turns(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        return hf.chat_turns(messages, self._specials)


FORMATS: dict[str, Callable[[SharedRows, Example], Fields | None]] = {
    "openai": SharedRows.openai,
    "trl-dpo": SharedRows.dpo,
    "trl-sft": SharedRows.sft,
}
"""Formats of `agentkd datasets export` by name, each with what makes a row of it."""


def export_lines(examples: Iterable[Example], form: str, tokenizer: Any = None) -> Iterator[str]:
    """Yield the rows that a format has a place for as lines of JSON."""
    rows = SharedRows(tokenizer)
    for example in examples:
        fields = FORMATS[form](rows, example)
        if fields is not None:
            yield _line(fields)


def _facts(example: Example) -> Fields:
    return {
        "id": example.id,
        "task_id": example.task_id,
        "kind": example.kind,
        "group": example.group,
        "teacher": example.provenance.teacher,
        "weight": example.weight,
    }


def _openai_messages(messages: Sequence[Message]) -> list[Fields]:
    """Return messages with `tool_calls`; a tool's result answers the last call that waits for one."""
    found: list[Fields] = []
    waiting: list[str] = []
    n_calls = 0
    for message in messages:
        fields: Fields = {"role": message.role, "content": message.content}
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                n_calls += 1
                name = call.id or f"call_{n_calls}"
                waiting.append(name)
                arguments = json.dumps(call.arguments, ensure_ascii=False)
                function = {"name": call.name, "arguments": arguments}
                calls.append({"id": name, "type": "function", "function": function})
            is_only_calls = message.content == hf.as_text(message.model_copy(update={"content": ""}))
            fields = {"role": "assistant", "content": "" if is_only_calls else message.content}
            fields["tool_calls"] = calls
        elif message.role == "tool":
            if waiting:
                fields["tool_call_id"] = message.tool_call_id or waiting.pop(0)
            else:
                fields = {"role": "user", "content": hf.as_text(message)}
        found.append(fields)
    return found


def _line(fields: Fields) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"
