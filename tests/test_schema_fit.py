"""Whether a call fits the tools that are offered, whatever the schema."""

from __future__ import annotations

from typing import Any

import pytest

from agentkd.evaluate.scorer import CallsScorer
from agentkd.schema import ToolCall, ToolSpec, call_fault

PAY: dict[str, Any] = {"type": "object", "properties": {"euros": {"type": "integer"}}, "required": ["euros"]}


def fault(schema: dict[str, Any], **arguments: Any) -> str:
    tool = ToolSpec(name="pay", description="Pay.", parameters=schema)
    return call_fault(ToolCall(name="pay", arguments=arguments), [tool])


def test_a_call_of_another_tool_or_with_other_arguments_does_not_fit() -> None:
    assert fault(PAY, euros=3) == ""
    assert (
        fault(PAY, euros="3")
        == "the call of `pay` does not fit its schema: euros: '3' is not of type 'integer'"
    )
    assert "'euros' is a required property" in fault(PAY)
    assert (
        fault(PAY, euros=3, cents=1)
        == "the call of `pay` does not fit its schema: it has no parameter `cents`"
    )
    other = ToolSpec(name="refund", description="Refund.", parameters=PAY)
    assert call_fault(ToolCall(name="pay", arguments={}), [other]) == "no tool is called `pay`"
    assert call_fault(ToolCall(name="pay", arguments={}), []) == "", "nothing is known"


@pytest.mark.parametrize(
    "more",
    [
        {"additionalProperties": True},
        {"additionalProperties": {"type": "integer"}},
        {"patternProperties": {"^c": {}}},
        {"allOf": [{"properties": {"cents": {"type": "integer"}}}]},
        {"oneOf": [{"required": ["cents"]}, {"required": ["dollars"]}]},
        {"unevaluatedProperties": True},
    ],
)
def test_a_schema_may_take_more_than_it_names(more: dict[str, Any]) -> None:
    assert fault(PAY | more, euros=3, cents=1) == ""


@pytest.mark.parametrize("broken", [{"type": "money"}, {"$ref": "#/nowhere"}, {"properties": 3}, {}])
def test_a_schema_that_is_broken_or_empty_holds_nothing_against_a_call(broken: dict[str, Any]) -> None:
    assert fault(broken, euros=3) == ""


def test_a_schema_from_elsewhere_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *given, **rest: asked.append(given))
    schema = {"type": "object", "properties": {"euros": {"$ref": "http://127.0.0.1:9/latest/meta-data"}}}
    assert (fault(schema, euros=3), asked) == ("", [])


def test_what_a_form_sends_as_text_may_be_read_as_what_is_wanted() -> None:
    schema = {
        "type": "object",
        "properties": {
            "euros": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "note": {"type": "string"},
            "is_fast": {"type": "boolean"},
        },
    }
    tool = ToolSpec(name="pay", description="Pay.", parameters=schema)

    def lenient(**arguments: Any) -> str:
        return call_fault(ToolCall(name="pay", arguments=arguments), [tool], is_lenient=True)

    assert lenient(euros="3", note="5", is_fast="true") == ""
    assert fault(schema, euros="3") != ""
    assert "euros: 'many' is not valid" in lenient(euros="many")
    assert "euros: 3.5 is not valid" in lenient(euros="3.5")
    assert "note: 5 is not of type 'string'" in lenient(note=5)


def test_a_scorer_goes_on_where_a_schema_cannot_be_read() -> None:
    broken = ToolSpec(name="pay", description="Pay.", parameters={"$ref": "http://127.0.0.1:9/x"})
    right = ToolCall(name="pay", arguments={"euros": 3})
    assert CallsScorer().score([right], [right], {"tools": [broken]})[:2] == (
        1.0,
        {"tool_choice": 1.0, "valid_call": 1.0},
    )
