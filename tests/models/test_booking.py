"""Every call is booked, and a ceiling is checked before a call, also with many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentkd.config import ModelSettings
from agentkd.errors import BudgetError, ModelError
from agentkd.ledger import Ledger
from agentkd.models.booking import Booked, Meter
from agentkd.models.scripted import ScriptedModel
from agentkd.schema import Message, Reply, ToolSpec, Usage

ASK = [Message(role="user", content="hello")]


class Paid(ScriptedModel):
    """A model of which a call costs at most 100 + 20 tokens and 10 cents, and really half of that."""

    usd: float | None = 0.10

    def estimate(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), max_new_tokens: int | None = None
    ) -> Usage:
        return Usage(prompt_tokens=100, completion_tokens=max_new_tokens or 0, usd=self.usd)


def paid(usd: float | None = 0.10) -> Paid:
    half = None if usd is None else usd / 2
    model = Paid(lambda messages, tools: Reply(usage=Usage(prompt_tokens=50, completion_tokens=10, usd=half)))
    model.usd = usd
    return model


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.db") as opened:
        yield opened


def settings(**changes: Any) -> ModelSettings:
    return ModelSettings(max_new_tokens=20, **changes)


def test_calls_are_booked_by_purpose(ledger: Ledger) -> None:
    model = Booked(ScriptedModel(["a b", ModelError("down")], name="m"), ledger, settings())
    assert model.name == "m"
    model.reply(ASK, purpose="distill")
    with pytest.raises(ModelError):
        model.reply(ASK)
    spent = ledger.calls.by_purpose()
    assert (spent["distill"].calls, spent["distill"].completion_tokens, spent["distill"].usd) == (1, 2, 0.0)
    assert (spent["other"].calls, spent["other"].failed) == (1, 1)


def test_tokens_have_a_ceiling(ledger: Ledger) -> None:
    inner = paid()
    model = Booked(inner, ledger, settings(max_tokens=240))
    for _ in range(3):  # 60 are spent by each, 120 must be free before each
        model.reply(ASK)
    with pytest.raises(BudgetError, match=r"may take 120 tokens; 180 of 240 are spent.*max_tokens"):
        model.reply(ASK)
    assert len(inner.calls) == 3


def test_money_has_a_ceiling(ledger: Ledger) -> None:
    model = Booked(paid(), ledger, settings(max_usd=0.16))
    model.reply(ASK)
    model.reply(ASK)
    with pytest.raises(BudgetError, match=r"\$0.1000 of \$0.1600"):
        model.reply(ASK)


def test_an_unknown_price_cannot_be_capped_in_money(ledger: Ledger) -> None:
    inner = paid(usd=None)
    with pytest.raises(BudgetError, match="price of `scripted` is unknown"):
        Booked(inner, ledger, settings(max_usd=1.0)).reply(ASK)
    assert inner.calls == []
    Booked(inner, ledger, settings(max_tokens=1000)).reply(ASK)
    assert ledger.calls.total().n_unpriced == 1


def test_a_failed_call_frees_what_was_held_back(ledger: Ledger) -> None:
    model = Booked(Paid([ModelError("down"), "ok"]), ledger, settings(max_tokens=120))
    with pytest.raises(ModelError, match="down"):
        model.reply(ASK)
    assert model.reply(ASK).text == "ok"


def test_local_models_have_no_ceiling(ledger: Ledger) -> None:
    model = Booked(ScriptedModel(["a", "b"]), ledger, settings(max_tokens=1, max_usd=0.0))
    assert [model.reply(ASK).text for _ in range(2)] == ["a", "b"]


def test_a_call_that_failed_after_it_was_paid_counts(ledger: Ledger) -> None:
    """Such as a model that answers twice with arguments that are no JSON: a suite of them met no ceiling."""
    cost = Usage(prompt_tokens=50, completion_tokens=20, usd=0.08)
    model = paid()
    model._answers = lambda messages, tools: (_ for _ in ()).throw(ModelError("no JSON, twice", usage=cost))
    meter = Meter(max_usd=0.25)
    booked = Booked(model, ledger, settings(), meter=meter)
    for _ in range(2):
        with pytest.raises(ModelError, match="twice"):
            booked.reply(ASK)
    assert (meter.usd, meter.booked_usd, meter.booked_tokens) == (pytest.approx(0.16), 0.16, 140)
    with pytest.raises(BudgetError, match="may cost"):
        booked.reply(ASK)
    spent = ledger.calls.total()
    assert (spent.failed, spent.usd, spent.prompt_tokens) == (2, 0.16, 100)


def test_one_meter_counts_for_all_models_of_a_command(ledger: Ledger) -> None:
    meter = Meter(max_tokens=200)
    first, second = (Booked(paid(), ledger, settings(), meter=meter) for _ in range(2))
    first.reply(ASK)
    second.reply(ASK)
    with pytest.raises(BudgetError):
        first.reply(ASK)


def test_the_ceiling_holds_with_many_calls_at_a_time(ledger: Ledger) -> None:
    meter = Meter(max_tokens=1000)
    model = Booked(paid(), ledger, settings(), meter=meter)

    def ask(_: int) -> bool:
        try:
            model.reply(ASK)
        except BudgetError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(ask, range(60)))
    assert meter.tokens == answered * 60 <= 1000
    assert answered >= 8
