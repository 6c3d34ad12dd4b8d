"""Book every model call, and refuse one that would pass a ceiling on tokens or money before it is made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from agentkd.config import ModelSettings
from agentkd.errors import AgentkdError, BudgetError, ConfigError
from agentkd.protocols import Model
from agentkd.schema import Message, Reply, ToolSpec, Usage

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["Booked", "Meter", "Priced", "begin_again", "paying"]

_AGAIN: ContextVar[Callable[[Usage], None]] = ContextVar("agentkd_again", default=lambda paid: None)


def begin_again(paid: Usage) -> None:
    """Count a further request of one call, such as a further try, and hold back what it may cost.

    A model says so before the request, with what the call has cost so far. Raises BudgetError at a ceiling,
    CeilingError where somebody asks to stop.
    """
    _AGAIN.get()(paid)


@runtime_checkable
class Priced(Protocol):
    """A model whose calls cost tokens and money of somebody else."""

    def estimate(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), max_new_tokens: int | None = None
    ) -> Usage:
        """Return the most that a call may cost; `usd` is None where the price is unknown."""


@dataclass
class _Hold:
    """What is held back for a call while it runs."""

    expected: Usage
    """The most that one request may cost."""
    model: str
    """Who is asked."""
    tokens: int = 0
    """Tokens that are held back now."""
    usd: float = 0.0
    """Money that is held back now."""
    spent: list[Usage] = field(default_factory=list)
    """What the call did cost."""


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

    def spent(self) -> tuple[int, float]:
        """Return the tokens and the money that all models of the command have taken so far."""
        return self.booked_tokens, self.booked_usd

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
    def reserve(self, expected: Usage, model: str) -> Iterator[_Hold]:
        """Hold back what a call may cost while it runs; put what it did cost into `spent`.

        Raises BudgetError before anything is spent. A call whose price is unknown is refused where money
        has a ceiling, because a ceiling that nobody can check is none.
        """
        hold = _Hold(expected, model)
        self.renew(hold, Usage(usd=0.0))
        try:
            yield hold
        finally:
            with self._lock:
                self._hold(hold, sum(hold.spent, Usage(usd=0.0)))

    def renew(self, hold: _Hold, paid: Usage) -> None:
        """Hold back one more request of a call that has cost `paid` so far; raises BudgetError."""
        with self._lock:
            self._hold(hold, paid)
            self._check(hold.expected, hold.model)
            self._hold(hold, paid + hold.expected)

    def _hold(self, hold: _Hold, usage: Usage) -> None:
        tokens, usd = usage.prompt_tokens + usage.completion_tokens, usage.usd or 0.0
        self.tokens += tokens - hold.tokens
        self.usd += usd - hold.usd
        hold.tokens, hold.usd = tokens, usd

    def _check(self, expected: Usage, model: str) -> None:
        tokens, usd = expected.prompt_tokens + expected.completion_tokens, expected.usd
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
        with self._meter.reserve(expected, self.name) as hold, _paid(hold.spent):
            reply = self._call(messages, tools, sampling, purpose, hold)
            hold.spent.append(reply.usage)
        return reply

    def score(self, prompt: str, completion: str, *, top_k: int) -> Reply:
        """Ask what the model thinks of a given text and book it; raises ConfigError where it cannot say."""
        ask = getattr(self.model, "score", None)
        if ask is None:
            raise ConfigError(f"model `{self.name}` cannot score a given text")
        if not isinstance(self.model, Priced):
            return self._booked(lambda: ask(prompt, completion, top_k=top_k), "teacher")
        whole = (Message(role="user", content=prompt + completion),)
        expected = self.model.estimate(whole, (), 1)
        with self._meter.reserve(expected, self.name) as hold, _paid(hold.spent):
            reply = self._booked(lambda: ask(prompt, completion, top_k=top_k), "teacher", hold)
            hold.spent.append(reply.usage)
        return reply

    def close(self) -> None:
        """Release what the model holds."""
        close = getattr(self.model, "close", None)
        if close is not None:
            close()

    def _call(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        sampling: dict[str, Any],
        purpose: str,
        hold: _Hold | None = None,
    ) -> Reply:
        return self._booked(lambda: self.model.reply(messages, tools, **sampling), purpose, hold)

    def _booked(self, ask: Callable[[], Reply], purpose: str, hold: _Hold | None = None) -> Reply:
        self._check()
        self._meter.begin(self.name)
        started = time.monotonic()
        token = _AGAIN.set(partial(self._again, hold))
        try:
            reply = ask()
        except Exception as error:
            usage = _usage_of(error) or Usage(seconds=time.monotonic() - started)
            self._meter.book(usage)
            self._ledger.calls.book(
                purpose, self.name, usage, ok=False, error=str(error), run_id=self._meter.occasion
            )
            raise
        finally:
            _AGAIN.reset(token)
        self._ledger.calls.book(purpose, reply.model or self.name, reply.usage, run_id=self._meter.occasion)
        self._meter.book(reply.usage)
        return reply

    def _again(self, hold: _Hold | None, paid: Usage) -> None:
        self._check()
        if hold is not None:
            self._meter.renew(hold, paid)
        self._meter.begin(self.name)


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


@contextmanager
def paying(
    ledger: Ledger, meter: Meter, check: Callable[[], None], model: str, expected: Usage, purpose: str
) -> Iterator[list[Usage]]:
    """Count and book a request that is no reply of a model; see `agentkd.protocols.Kit.paying`."""
    with meter.reserve(expected, model) as hold:
        check()
        meter.begin(model)
        error = "it was broken off"
        try:
            yield hold.spent
            error = ""
        except Exception as raised:
            error = str(raised)
            raise
        finally:
            usage = sum(hold.spent, Usage(usd=0.0))
            meter.book(usage)
            ledger.calls.book(purpose, model, usage, ok=not error, error=error, run_id=meter.occasion)
