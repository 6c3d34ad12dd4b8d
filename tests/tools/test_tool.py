"""The decorator makes tools of typed functions, and a tool never raises at the model."""

from __future__ import annotations

import asyncio
import enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

import agentkd
from agentkd.errors import ConfigError
from agentkd.protocols import Tool
from agentkd.schema import ToolCall, ToolResult
from agentkd.tools import ToolBox, tool


class Place(BaseModel):
    city: str
    zip: str = ""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@tool
def find_order(email: str, limit: int = 3, kind: Literal["open", "closed"] = "open") -> list[str]:
    """List the orders placed
    with this e-mail address.

    Args:
        email: Address that the customer
            used.
        limit (int): Most orders.

    Returns:
        Order numbers.
    """
    return [f"{email}-{kind}-{i}" for i in range(limit)]


def test_a_typed_function_becomes_a_json_schema() -> None:
    assert isinstance(find_order, Tool)
    assert agentkd.tool is tool
    spec = find_order.spec
    assert spec.name == "find_order"
    assert spec.description == "List the orders placed with this e-mail address."
    assert spec.parameters["required"] == ["email"]
    assert spec.parameters["properties"] == {
        "email": {"type": "string", "description": "Address that the customer used."},
        "limit": {"type": "integer", "default": 3, "description": "Most orders."},
        "kind": {"type": "string", "enum": ["open", "closed"], "default": "open"},
    }
    Draft202012Validator.check_schema(spec.parameters)


def test_the_object_still_calls_the_function() -> None:
    assert find_order("a@b", 1) == ["a@b-open-0"]
    assert find_order.__name__ == "find_order"


def test_a_call_checks_and_converts_its_arguments() -> None:
    result = find_order.call({"email": "a@b", "limit": "2"})
    assert result.ok
    assert result.value == ["a@b-open-0", "a@b-open-1"]
    assert result.content == '["a@b-open-0", "a@b-open-1"]'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "email: Field required"),
        ({"email": "a", "limit": "many"}, "limit: Input should be a valid integer"),
        ({"email": "a", "colour": 1}, "colour: Extra inputs are not permitted"),
        ({"email": "a", "kind": "lost"}, "kind: Input should be 'open' or 'closed'"),
    ],
)
def test_wrong_arguments_are_said_by_name(arguments: dict[str, Any], said: str) -> None:
    result = find_order.call(arguments)
    assert not result.ok
    assert "wrong arguments for `find_order`" in result.error
    assert said in result.error


def test_an_exception_becomes_an_error() -> None:
    @tool
    def divide(a: float, b: float) -> float:
        """Divide."""
        return a / b

    assert divide.call({"a": 1, "b": 0}).error == "ZeroDivisionError: float division by zero"


def test_options_rename_and_mark_side_effects() -> None:
    @tool(name="mail.send", description="Send.", has_side_effects=True)
    def send(to: str) -> None:
        """Hidden."""

    assert (send.spec.name, send.spec.description, send.spec.has_side_effects) == ("mail.send", "Send.", True)
    assert send.call({"to": "x"}).content == "done"


def test_models_enums_and_awkward_names_work() -> None:
    @tool
    def ship(
        to: Place, colour: Colour, schema: Annotated[str, Field(description="A word.")], copy: int = 1
    ) -> Place:
        """Ship."""
        assert isinstance(to, Place)
        assert isinstance(colour, Colour)
        return Place(city=to.city, zip=schema * copy)

    assert ship.spec.parameters["properties"]["schema"] == {"type": "string", "description": "A word."}
    assert "title" not in str(ship.spec.parameters)
    result = ship.call({"to": {"city": "Oslo"}, "colour": "red", "schema": "ab", "copy": 2})
    assert result.value == {"city": "Oslo", "zip": "abab"}


def test_a_parameter_called_title_survives() -> None:
    @tool
    def book(title: str) -> str:
        """Book."""
        return title

    assert list(book.spec.parameters["properties"]) == ["title"]


def test_coroutines_are_awaited_with_and_without_a_running_loop() -> None:
    @tool
    async def wait(seconds: float) -> str:
        """Wait."""
        await asyncio.sleep(seconds)
        return "waited"

    async def inside() -> ToolResult:
        return wait.call({"seconds": 0})

    assert wait.call({"seconds": 0}).content == "waited"
    assert asyncio.run(inside()).content == "waited"


def test_what_no_model_could_call_is_refused_at_definition() -> None:
    def untyped(x):  # type: ignore[no-untyped-def]
        return x

    def many(*words: str) -> None: ...

    def socket(connection: threading_lock) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for function, said in ((untyped, "has no type"), (many, "has no name"), (socket, "cannot be found")):
        with pytest.raises(ConfigError, match=said):
            tool(function)
    with pytest.raises(ConfigError, match="cannot be a tool's name"):
        tool(name="find order")(find_order)


@given(st.text(), st.integers(), st.lists(st.text()), st.dictionaries(st.text(), st.floats(allow_nan=False)))
def test_valid_arguments_arrive_unchanged(a: str, b: int, c: list[str], d: dict[str, float]) -> None:
    got: list[Any] = []

    @tool
    def take(a: str, b: int, c: list[str], d: dict[str, float]) -> None:
        """Take."""
        got.append((a, b, c, d))

    assert take.call({"a": a, "b": b, "c": c, "d": d}).ok
    assert got == [(a, b, c, d)]


def test_a_box_runs_calls_by_name_and_names_the_nearest() -> None:
    def shout(text: str) -> str:
        """Shout."""
        return text.upper()

    box = ToolBox([find_order, shout])
    assert [spec.name for spec in box.tools] == ["find_order", "shout"]
    assert box.call(ToolCall(name="shout", arguments={"text": "hi"})).content == "HI"
    unknown = box.call(ToolCall(name="find_orders"))
    assert unknown.error == "no tool is called `find_orders` (did you mean `find_order`?)"


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two tools are called `find_order`"):
        ToolBox([find_order, find_order])
