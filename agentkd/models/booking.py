"""Book every model call, and refuse one that would pass a ceiling on tokens or money before it is made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from agentkd.config import ModelSettings
from agentkd.errors import AgentkdError, BudgetError, ConfigError
from agentkd.protocols import Model
from agentkd.schema import Message, Reply, ToolSpec, Usage

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["Booked", "Meter", "Priced"]


@runtime_checkable
class Priced(Protocol):
    """A model whose calls cost tokens and money of somebody else."""

    def estimate(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), max_new_tokens: int | None = None
    ) -> Usage:
        """Return the most that a call may cost; `usd` is None where the price is unknown."""


class Meter:
    """What one command has spent on remote models, and what calls in flight may still spend."""

    def __init__(
        self, max_usd: float | None = None, max_tokens: int | None = None, max_calls: int | None = None
    ) -> None:
        self.max_usd = max_usd
        self.max_tokens = max_tokens
        self.max_calls = max_calls
        self.calls = 0
        """Calls that were begun, of local models too."""
        self.usd = 0.0
        self.tokens = 0
        self.booked_usd = 0.0
        """Money of all calls so far, as far as prices are known."""
        self.booked_tokens = 0
        """Tokens of all calls so far, those of local models included."""
        self.occasion = ""
        """What the calls are made for, such as the id of a cycle; booked with each."""
        self._lock = threading.Lock()

    @contextmanager
    def on(self, occasion: str) -> Iterator[None]:
        """Book the calls of a block under what they are made for."""
        before, self.occasion = self.occasion, occasion
        try:
            yield
        finally:
            self.occasion = before

    def go_on_from(self, earlier: Meter) -> None:
        """Count what an earlier meter of the same command counted."""
        with self._lock:
            self.calls += earlier.calls
            self.usd += earlier.usd
            self.tokens += earlier.tokens
            self.booked_usd += earlier.booked_usd
            self.booked_tokens += earlier.booked_tokens

    @property
    def is_capped(self) -> bool:
        """Whether there is a ceiling at all."""
        return self.max_usd is not None or self.max_tokens is not None

    def begin(self, model: str) -> None:
        """Count a call before it is made; raises BudgetError where no further one is allowed."""
        with self._lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                raise BudgetError(
                    f"`{model}` would be asked once more; {self.calls} of {self.max_calls} calls are made",
                    hint="raise `[models] max_calls`",
                )
            self.calls += 1

    def book(self, usage: Usage) -> None:
        """Add what a call cost, whoever answered it."""
        with self._lock:
            self.booked_tokens += usage.prompt_tokens + usage.completion_tokens
            self.booked_usd += usage.usd or 0.0

    @contextmanager
    def reserve(self, expected: Usage, model: str) -> Iterator[list[Usage]]:
        """Hold back what a call may cost while it runs; put what it did cost into the list.

        Raises BudgetError before anything is spent. A call whose price is unknown is refused where money
        has a ceiling, because a ceiling that nobody can check is none.
        """
        tokens = expected.prompt_tokens + expected.completion_tokens
        with self._lock:
            self._check(tokens, expected.usd, model)
            self.tokens += tokens
            self.usd += expected.usd or 0.0
        spent: list[Usage] = []
        try:
            yield spent
        finally:
            cost = sum(spent, Usage(usd=0.0))
            with self._lock:
                self.tokens += cost.prompt_tokens + cost.completion_tokens - tokens
                self.usd += (cost.usd or 0.0) - (expected.usd or 0.0)

    def _check(self, tokens: int, usd: float | None, model: str) -> None:
        if self.max_tokens is not None and self.tokens + tokens > self.max_tokens:
            raise BudgetError(
                f"a call of `{model}` may take {tokens} tokens; {self.tokens} of {self.max_tokens} are spent",
                hint="raise `[models] max_tokens`",
            )
        if self.max_usd is None:
            return
        if usd is None:
            raise BudgetError(
                f"the price of `{model}` is unknown, so `[models] max_usd` cannot be kept",
                hint="unset `max_usd` and set `max_tokens`, or take a model with a known price",
            )
        if self.usd + usd > self.max_usd:
            raise BudgetError(
                f"a call of `{model}` may cost ${usd:.4f}; ${self.usd:.4f} of ${self.max_usd:.4f} are spent",
                hint="raise `[models] max_usd`",
            )


class Booked:
    """A model whose calls are booked in the ledger; hand one `Meter` to all models of a command."""

    def __init__(
        self,
        model: Model,
        ledger: Ledger,
        settings: ModelSettings,
        *,
        meter: Meter | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the model and where its calls are booked; `check` is called before each and may raise."""
        self.name = model.name
        self.model = model
        self.reads_tools = bool(getattr(model, "reads_tools", False))
        self._ledger = ledger
        self._meter = meter or Meter(settings.max_usd, settings.max_tokens, settings.max_calls)
        self._check = check
        self._max_new_tokens = settings.max_new_tokens

    def reply(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), **sampling: Any) -> Reply:
        """Answer a conversation and book it under `purpose`; raises BudgetError before the call is made."""
        purpose = str(sampling.get("purpose", "other"))
        if not (self._meter.is_capped and isinstance(self.model, Priced)):
            return self._call(messages, tools, sampling, purpose)
        limit = sampling.get("max_new_tokens") or self._max_new_tokens
        expected = self.model.estimate(messages, tools, limit)
        with self._meter.reserve(expected, self.name) as spent, _paid(spent):
            reply = self._call(messages, tools, sampling, purpose)
            spent.append(reply.usage)
        return reply

    def score(self, prompt: str, completion: str, *, top_k: int) -> Reply:
        """Ask what the model thinks of a given text and book it; raises ConfigError where it cannot say."""
        ask = getattr(self.model, "score", None)
        if ask is None:
            raise ConfigError(f"model `{self.name}` cannot score a given text")
        if not isinstance(self.model, Priced):
            return self._booked(lambda: ask(prompt, completion, top_k=top_k), "teacher")
        whole = (Message(role="user", content=prompt + completion),)
        with self._meter.reserve(self.model.estimate(whole, (), 1), self.name) as spent, _paid(spent):
            reply = self._booked(lambda: ask(prompt, completion, top_k=top_k), "teacher")
            spent.append(reply.usage)
        return reply

    def close(self) -> None:
        """Release what the model holds."""
        close = getattr(self.model, "close", None)
        if close is not None:
            close()

    def _call(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: dict[str, Any], purpose: str
    ) -> Reply:
        return self._booked(lambda: self.model.reply(messages, tools, **sampling), purpose)

    def _booked(self, ask: Callable[[], Reply], purpose: str) -> Reply:
        self._check()
        self._meter.begin(self.name)
        started = time.monotonic()
        try:
            reply = ask()
        except Exception as error:
            usage = _usage_of(error) or Usage(seconds=time.monotonic() - started)
            self._meter.book(usage)
            self._ledger.calls.book(
                purpose, self.name, usage, ok=False, error=str(error), run_id=self._meter.occasion
            )
            raise
        self._ledger.calls.book(purpose, reply.model or self.name, reply.usage, run_id=self._meter.occasion)
        self._meter.book(reply.usage)
        return reply


def _usage_of(error: Exception) -> Usage | None:
    """Return what a call cost that failed all the same, where the model says so."""
    usage = error.context.get("usage") if isinstance(error, AgentkdError) else None
    return usage if isinstance(usage, Usage) else None


@contextmanager
def _paid(spent: list[Usage]) -> Iterator[None]:
    """Put what a failed call cost into the list too."""
    try:
        yield
    except AgentkdError as error:
        if (usage := _usage_of(error)) is not None:
            spent.append(usage)
        raise
