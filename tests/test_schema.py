"""Values: frozen, strict, addressed by content, and the same after a trip through JSON."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkd import schema
from agentkd.schema import (
    Evaluation,
    Memory,
    MemoryKeys,
    Message,
    Outcome,
    Reply,
    Scope,
    Step,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Usage,
    Value,
    canonical_json,
    content_id,
    memory_id,
    sortable_id,
)

VALUES = sorted(
    (v for v in vars(schema).values() if isinstance(v, type) and issubclass(v, Value) and v is not Value),
    key=lambda v: v.__name__,
)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("value", VALUES, ids=lambda v: v.__name__)
def test_every_value_is_frozen_and_refuses_unknown_fields(value: type[Value]) -> None:
    assert value.model_config["frozen"] is True
    assert value.model_config["extra"] == "forbid"


@pytest.mark.parametrize("value", VALUES, ids=lambda v: v.__name__)
def test_every_field_is_documented(value: type[Value]) -> None:
    assert [name for name, field in value.model_fields.items() if not field.description] == []


def test_a_value_cannot_be_changed_and_an_unknown_field_is_refused() -> None:
    call = ToolCall(name="find")
    with pytest.raises(ValidationError):
        call.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        ToolCall(name="find", argument={})  # type: ignore[call-arg]


@given(st.dictionaries(st.text(max_size=5), json_like, max_size=4))
def test_a_call_survives_the_way_through_json(arguments: dict[str, object]) -> None:
    call = ToolCall(name="find", arguments=arguments)
    assert ToolCall.model_validate_json(call.model_dump_json()) == call


@given(st.dictionaries(st.text(max_size=5), json_like, max_size=5))
def test_the_order_of_keys_does_not_change_an_id(data: dict[str, object]) -> None:
    backwards = dict(reversed(data.items()))
    assert canonical_json(data) == canonical_json(backwards)
    assert content_id("x", data) == content_id("x", backwards)


@given(json_like, json_like)
def test_different_contents_have_different_ids(one: object, two: object) -> None:
    assert (content_id("x", one) == content_id("x", two)) == (canonical_json(one) == canonical_json(two))


def test_canonical_json_takes_values_sets_and_times() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    assert canonical_json({"b": {2, 1}, "a": ToolCall(name="f"), "t": moment}) == (
        '{"a":{"arguments":{},"id":"","name":"f"},"b":[1,2],"t":"2026-01-02T00:00:00+00:00"}'
    )


def test_ids_by_time_sort_in_the_order_they_were_made_and_never_repeat() -> None:
    moments = iter(datetime.fromtimestamp(1_700_000_000 + n, UTC) for n in range(200))
    ids = [sortable_id("tra", clock=lambda: next(moments)) for _ in range(200)]
    assert ids == sorted(ids)
    same = {sortable_id("tra", clock=lambda: datetime(2026, 1, 1, tzinfo=UTC)) for _ in range(500)}
    assert len(same) == 500
    assert all(re.fullmatch(r"tra-[0-9a-hjkmnp-tv-z]{18}", id_) for id_ in ids)


def test_a_memory_has_one_id_per_lesson_and_scope() -> None:
    one = memory_id("case", "when", "do", Scope(app="shop"))
    assert one == memory_id("case", "when", "do", Scope(app="shop"))
    assert one != memory_id("case", "when", "do", Scope(app="other"))
    assert one != memory_id("pitfall", "when", "do", Scope(app="shop"))


def test_costs_add_up_and_an_unknown_price_stays_unknown() -> None:
    known = Usage(prompt_tokens=1, completion_tokens=2, cached_tokens=3, usd=0.5, seconds=1.5)
    assert known + known == Usage(prompt_tokens=2, completion_tokens=4, cached_tokens=6, usd=1.0, seconds=3.0)
    assert (known + Usage()).usd is None


def test_only_named_keys_of_a_memory_are_embedded() -> None:
    assert MemoryKeys(situation="s", tools="t").texts() == {"situation": "s", "tools": "t"}


def test_a_trajectory_lists_each_recalled_memory_once_in_the_order_of_use() -> None:
    reply = Message(role="assistant", content="x")
    steps = (
        Step(index=0, reply=reply, recalled=("mem-b", "mem-a")),
        Step(index=1, reply=reply, recalled=("mem-a", "mem-c")),
    )
    run = Trajectory(id="tra-1", run_id="run-1", task=Task(id="t", prompt="p"), steps=steps)
    assert run.recalled == ("mem-b", "mem-a", "mem-c")
    assert run.success is False
    assert run.model_copy(update={"outcome": Outcome(success=True)}).success is True


def test_a_reply_becomes_an_assistant_message() -> None:
    call = ToolCall(name="find")
    message = Reply(text="{}", tool_calls=(call,)).to_message()
    assert (message.role, message.content, message.tool_calls, message.origin) == (
        "assistant", "{}", (call,), "model",
    )  # fmt: skip


def test_a_tool_result_is_ok_without_an_error() -> None:
    assert ToolResult(content="x").ok
    assert not ToolResult(error="gone").ok


def test_an_unknown_arm_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="student"):
        Evaluation(id="e", suite="s", split="holdout", n=0).arm("student")


def test_a_memory_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="kind"):
        Memory(id="m", kind="idea", when_to_use="w", content="c")  # type: ignore[arg-type]
