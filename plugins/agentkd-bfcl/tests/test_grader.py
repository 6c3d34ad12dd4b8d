"""The rules of the benchmark's checker, one by one."""

from __future__ import annotations

import pytest
from agentkd_bfcl.answer import accepted_call, fit_answer
from agentkd_bfcl.data import json_schema, tool_spec
from agentkd_bfcl.grader import check_arguments, grade_calls, is_same_text
from hypothesis import given
from hypothesis import strategies as st

from agentkd.schema import ToolCall

TOOL = tool_spec(
    {
        "name": "book",
        "description": "Books a  table.",
        "parameters": {
            "type": "dict",
            "required": ["city"],
            "properties": {
                "city": {"type": "string", "description": "Where."},
                "seats": {"type": "integer", "default": 2},
                "price": {"type": "float"},
                "outdoors": {"type": "boolean"},
                "day": {"type": "string", "enum": ["2023", "2024"]},
                "dishes": {"type": "array", "items": {"type": "string"}},
                "wishes": {"type": "dict", "properties": {"milk": {"type": "string"}}},
            },
        },
    }
)


def fault(answer, **arguments):
    return check_arguments(arguments, TOOL, answer)


def test_text_is_compared_without_case_spaces_and_punctuation():
    answer = {"city": ("New York, NY",)}
    assert not fault(answer, city="new york NY")
    assert not fault(answer, city="New_York-N.Y.")
    assert fault(answer, city="New York; NY")
    assert fault(answer, city="York")


def test_quotes_of_both_sorts_are_one():
    assert is_same_text("the 'big' one", 'the "big" one')


@given(st.text())
def test_every_text_equals_itself_in_capitals_where_lower_case_undoes_them(text):
    assert is_same_text(text, text)
    if text.upper().lower() == text.lower():
        assert is_same_text(text.upper(), text)


def test_an_argument_may_be_left_out_only_where_the_empty_text_is_accepted():
    assert not fault({"city": ("Rome",), "seats": ("", 2)}, city="Rome")
    assert not fault({"city": ("Rome",), "seats": ("", 2)}, city="Rome", seats=2)
    assert "missing" in fault({"city": ("Rome",), "seats": (2,)}, city="Rome")
    assert "required" in fault({"city": ("", "Rome")}, seats=2)


def test_an_argument_that_nobody_asked_for_is_wrong():
    assert "does not belong" in fault({"city": ("Rome",)}, city="Rome", seats=2)
    assert "does not belong" in fault({"city": ("Rome",)}, city="Rome", colour="red")


def test_a_whole_number_passes_for_a_float_but_not_the_other_way():
    assert not fault({"city": ("Rome",), "price": (5.0,)}, city="Rome", price=5)
    assert fault({"city": ("Rome",), "seats": (5,)}, city="Rome", seats=5.0)


def test_true_is_not_one_and_a_number_is_not_its_text():
    assert fault({"city": ("Rome",), "seats": (1,)}, city="Rome", seats=True)
    assert fault({"city": ("Rome",), "outdoors": (True,)}, city="Rome", outdoors=1)
    assert fault({"city": ("Rome",), "seats": (5,)}, city="Rome", seats="5")


def test_lists_are_compared_in_order_and_their_texts_loosely():
    answer = {"city": ("Rome",), "dishes": (["pasta", "Tiramisu"],)}
    assert not fault(answer, city="Rome", dishes=["Pasta", "tira-misu"])
    assert fault(answer, city="Rome", dishes=["Tiramisu", "pasta"])
    assert fault(answer, city="Rome", dishes=["pasta"])
    assert fault(answer, city="Rome", dishes="pasta")


def test_objects_are_compared_key_by_key():
    answer = {"city": ("Rome",), "wishes": ({"milk": ["oat", "soy"], "sugar": ["", "none"]},)}
    assert not fault(answer, city="Rome", wishes={"milk": "Soy"})
    assert not fault(answer, city="Rome", wishes={"milk": "oat", "sugar": "none"})
    assert fault(answer, city="Rome", wishes={"sugar": "none"})
    assert fault(answer, city="Rome", wishes={"milk": "oat", "ice": "yes"})


def test_parts_tell_a_wrong_tool_from_a_broken_call():
    def grade(*calls):
        return grade_calls(calls, tool=TOOL, offered=[TOOL], answer={"city": ("Rome",)})

    assert grade().parts == {"tool_choice": 0.0, "valid_call": 0.0}
    assert grade(ToolCall(name="cook")).parts == {"tool_choice": 0.0, "valid_call": 0.0}
    broken = grade(ToolCall(name="book", arguments={"city": 7}))
    assert broken.parts == {"tool_choice": 1.0, "valid_call": 0.0}
    wrong = grade(ToolCall(name="book", arguments={"city": "Bonn"}))
    assert wrong.parts == {"tool_choice": 1.0, "valid_call": 1.0}
    assert not wrong.success
    right = grade(ToolCall(name="book", arguments={"city": "rome"}))
    assert right.success
    assert right.reward == 1.0
    assert right.feedback == ""


def test_an_answer_in_another_type_or_spelling_is_fitted_to_the_schema():
    fitted = fit_answer(TOOL, {"city": ("Rome",), "day": (2023,), "outdoors": ("True",), "seats": ("4",)})
    assert fitted is not None
    assert accepted_call(TOOL, fitted).arguments == {
        "city": "Rome",
        "seats": 4,
        "outdoors": True,
        "day": "2023",
    }
    assert fitted["day"] == (2023, "2023")


@pytest.mark.parametrize(
    "answer",
    [
        {"city": ("Rome",), "day": ("2031",)},
        {"city": ("Rome",), "colour": ("red",)},
        {"seats": (2,)},
    ],
)
def test_an_answer_that_no_call_could_give_is_refused(answer):
    assert fit_answer(TOOL, answer) is None


def test_the_accepted_call_leaves_out_what_may_be_left_out():
    answer = {"seats": ("", 2), "city": ("", "Rome"), "price": (5, 5.5), "wishes": ({"milk": ["oat"]},)}
    call = accepted_call(TOOL, answer)
    assert call.arguments == {"city": "Rome", "price": 5, "wishes": {"milk": "oat"}}
    assert list(call.arguments) == ["city", "price", "wishes"]


def test_types_of_the_benchmark_become_json_types():
    schema = json_schema(
        {
            "type": "dict",
            "properties": {"a": {"type": "any"}, "b": {"type": "tuple", "items": {"type": "float"}}},
        }
    )
    assert "type" not in schema["properties"]["a"]
    assert schema["properties"]["b"]["type"] == "array"
    assert schema["properties"]["b"]["items"] == {"type": "number"}
    assert TOOL.description == "Books a table."
