"""A model that says what it was told to say: for tests, examples and dry runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkd.errors import DataError, ModelError
from agentkd.schema import Message, Reply, ToolCall, ToolSpec, Usage, Value

__all__ = ["Answer", "ScriptedCall", "ScriptedModel", "ScriptedSettings", "build", "read_replies"]

Answer = str | ToolCall | Reply | Exception
"""What a script may say: a text, one call, a whole reply, or an error to raise."""


class ScriptedSettings(Value):
    """`[model.scripted]`: a model that recites."""

    script: str = "scripted"
    """Name that reports print; `scripted:<name>` sets it."""
    answers: tuple[str, ...] = ()
    """Answers in order; a JSON object with `name` and `arguments` is a tool call. Without any it
    echoes the request."""
    repeat: bool = True
    """Whether the answers begin anew when they are used up."""
    replies: str = ""
    """File of recorded replies, one JSON object a line: `when` (a text or a list of texts that stand in the
    conversation) and `say` (the answer). The first line that fits is said, whatever the order of the
    questions."""


@dataclass(frozen=True)
class ScriptedCall:
    """One request that a scripted model was asked."""

    messages: tuple[Message, ...]
    """The conversation."""
    tools: tuple[ToolSpec, ...]
    """Tools on offer."""
    sampling: Mapping[str, Any]
    """Sampling keywords."""


class ScriptedModel:
    """Answers from a list in order, or from a function of the conversation and the tools.

    Every request is kept in `calls`. Tokens are counted as words, money is 0.
    """

    def __init__(
        self,
        answers: Sequence[Answer] | Callable[[Sequence[Message], Sequence[ToolSpec]], Answer],
        *,
        name: str = "scripted",
        repeat: bool = False,
    ) -> None:
        self.name = name
        self.calls: list[ScriptedCall] = []
        self._answers = answers
        self._repeat = repeat
        self._lock = threading.Lock()
        self._n = 0

    def reply(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), **sampling: Any) -> Reply:
        """Return the next answer; raises ModelError when the script is at its end."""
        with self._lock:
            self.calls.append(ScriptedCall(tuple(messages), tuple(tools), dict(sampling)))
            position, self._n = self._n, self._n + 1
        answer = self._answers(messages, tools) if callable(self._answers) else self._answer(position)
        if isinstance(answer, Exception):
            raise answer
        return self._reply(answer, messages)

    def _answer(self, position: int) -> Answer:
        assert not callable(self._answers)
        if self._repeat and self._answers:
            position %= len(self._answers)
        if position >= len(self._answers):
            raise ModelError(
                f"the script of model `{self.name}` has only {len(self._answers)} answers",
                hint="give it more answers, or `repeat`",
            )
        return self._answers[position]

    def _reply(self, answer: str | ToolCall | Reply, messages: Sequence[Message]) -> Reply:
        if isinstance(answer, Reply):
            return answer if answer.model else answer.model_copy(update={"model": self.name})
        calls = (answer,) if isinstance(answer, ToolCall) else ()
        text = _call_text(answer) if isinstance(answer, ToolCall) else answer
        usage = Usage(
            prompt_tokens=sum(len(message.content.split()) for message in messages),
            completion_tokens=len(text.split()),
            usd=0.0,
        )
        reply = Reply(text=text, tool_calls=calls, usage=usage, model=self.name)
        return reply.model_copy(update={"finish_reason": "tool_calls"}) if calls else reply


class _Recorded(Value):
    """One line of a file of recorded replies."""

    when: tuple[str, ...]
    """Texts that all stand in the conversation."""
    say: Any
    """Answer: a text, or JSON that is said as text."""


def read_replies(path: Path) -> Callable[[Sequence[Message], Sequence[ToolSpec]], Answer]:
    """Return a script that finds its replies in a file; raises DataError naming the line that is broken."""
    recorded = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the replies in `{path}` cannot be read: {error}", path=str(path)) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                data = json.loads(line)
                when = [data["when"]] if isinstance(data["when"], str) else data["when"]
                recorded.append(_Recorded.model_validate({**data, "when": when}))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"line {number} of `{path}` is no recorded reply: {error}",
                    hint='write {"when": "text of the question", "say": "answer"}',
                    path=str(path),
                    line=number,
                ) from error

    def reply(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Answer:
        asked = "\n".join(message.content for message in messages)
        for entry in recorded:
            if all(text in asked for text in entry.when):
                text = entry.say if isinstance(entry.say, str) else json.dumps(entry.say, ensure_ascii=False)
                return _read(text)
        return ModelError(
            f"no reply is recorded in `{path}` for this question: {messages[-1].content[:200]!r}",
            hint="add a line whose `when` stands in the conversation",
        )

    return reply


def build(settings: ScriptedSettings, kit: object) -> ScriptedModel:
    """Make the component `scripted`."""
    if settings.replies:
        return ScriptedModel(read_replies(Path(settings.replies).expanduser()), name=settings.script)
    if not settings.answers:
        return ScriptedModel(lambda messages, tools: messages[-1].content, name=settings.script)
    return ScriptedModel(
        [_read(text) for text in settings.answers], name=settings.script, repeat=settings.repeat
    )


def _read(text: str) -> str | ToolCall:
    try:
        data = json.loads(text)
    except ValueError:
        return text
    if isinstance(data, dict) and set(data) == {"name", "arguments"}:
        return ToolCall.model_validate(data)
    return text


def _call_text(call: ToolCall) -> str:
    return json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
