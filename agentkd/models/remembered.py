"""A model whose replies are on disk before they are used: the same question is paid once.

A killed phase asks again and is answered from the log; only what was in flight is lost. A ceiling on tokens
counts what the log answered too, so that a phase that goes on stops where an undisturbed one would.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentkd.errors import BudgetError, ModelError
from agentkd.models.booking import Priced
from agentkd.protocols import Model
from agentkd.schema import Message, Reply, ToolSpec, Usage, Value, content_id

__all__ = ["Remembered"]

_CHARS_PER_TOKEN = 4  # a guess for models that give no estimate of their own


class _Line(Value):
    """One line of the log."""

    key: str
    reply: Reply


class Remembered:
    """Asks a model what the log does not know; safe to call from several threads."""

    def __init__(
        self,
        model: Model,
        file: Path,
        *,
        max_tokens: int | None = None,
        is_dry: bool = False,
        check: Callable[[], None] = lambda: None,
        clean: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> None:
        """Read the log; a line that a kill cut off is dropped.

        Args:
            model: Who is asked.
            file: The log, one JSON object a line.
            max_tokens: Tokens that the replies may take, known ones included; checked before each call.
            is_dry: Whether nobody is asked: an unknown question costs its estimate and raises ModelError.
            check: Called before each question that the log does not know; may raise, such as CeilingError.
            clean: Takes out of a reply what must not reach the disk; it is given out as it is kept.
        """
        self.name = model.name
        self.spent = Usage(usd=0.0)
        """What the calls of this object cost; of a dry run, what they would cost at most."""
        self.n_asked = 0
        """Calls that were made, or would be."""
        self.n_answered = 0
        """Replies given, those from the log included."""
        self._model = model
        self._file = file
        self._max_tokens = max_tokens
        self._is_dry = is_dry
        self._check = check
        self._clean = clean
        self._tokens = 0
        self._n_in_flight = 0
        self._lock = threading.Lock()
        self._room = threading.Condition()
        self._known: dict[str, Reply] = {}
        if file.is_file():
            for line in file.read_bytes().split(b"\n"):
                try:
                    said = _Line.model_validate_json(line)
                except ValidationError:
                    continue
                self._known[said.key] = said.reply

    def reply(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), **sampling: Any) -> Reply:
        """Answer from the log, else ask and write the answer down; raises BudgetError at the ceiling."""
        counted = {name: value for name, value in sampling.items() if name != "purpose"}
        key = content_id("ask", self.name, list(messages), list(tools), counted)
        known = self._known.get(key)
        expected = known.usage if known is not None else self._estimate(messages, tools, sampling)
        self._reserve(expected)
        used = expected
        try:
            if known is not None:
                return known
            if self._is_dry:
                self._note(expected)
                raise ModelError(f"`{self.name}` was not asked: this is a dry run")
            used = Usage(usd=0.0)
            self._check()
            try:
                reply = self._clean(self._model.reply(messages, tools, **sampling))
                used = reply.usage
                self._write(key, reply)
            finally:
                self._note(used)
            return reply
        finally:
            self._settle(expected, used)

    def __getattr__(self, name: str) -> Any:
        """What else the model can do is not remembered."""
        if name == "_model":  # not made yet
            raise AttributeError(name)
        return getattr(self._model, name)

    def _estimate(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: dict[str, Any]
    ) -> Usage:
        limit = sampling.get("max_new_tokens")
        inner = getattr(self._model, "model", self._model)
        if isinstance(inner, Priced):
            return inner.estimate(messages, tools, limit)
        read = sum(len(message.content) for message in messages) // _CHARS_PER_TOKEN
        return Usage(prompt_tokens=read, completion_tokens=int(limit or 0), usd=0.0)

    def _reserve(self, expected: Usage) -> None:
        """Hold back what a call may take; wait while calls in flight hold too much."""
        wanted = _total(expected)
        with self._room:
            while self._max_tokens is not None and self._tokens + wanted > self._max_tokens:
                if not self._n_in_flight:
                    raise BudgetError(
                        f"a call of `{self.name}` may take {wanted} tokens; {self._tokens} of "
                        f"{self._max_tokens} are spent",
                        hint="raise `[synthesize] max_tokens`",
                    )
                self._room.wait()
            self._tokens += wanted
            self._n_in_flight += 1

    def _settle(self, expected: Usage, used: Usage) -> None:
        with self._room:
            self.n_answered += 1
            self._tokens += _total(used) - _total(expected)
            self._n_in_flight -= 1
            self._room.notify_all()

    def _note(self, usage: Usage) -> None:
        with self._lock:
            self.n_asked += 1
            self.spent += usage

    def _write(self, key: str, reply: Reply) -> None:
        line = _Line(key=key, reply=reply.model_copy(update={"tokens": None})).model_dump_json()
        with self._lock:
            self._known[key] = reply
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as file:
                start = b"\n" if file.tell() else b""  # behind a line that was cut off
                file.write(start + line.encode())
                file.flush()
                os.fsync(file.fileno())


def _total(usage: Usage) -> int:
    return usage.prompt_tokens + usage.completion_tokens
