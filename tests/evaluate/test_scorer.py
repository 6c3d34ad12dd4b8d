"""What each scorer accepts."""

from __future__ import annotations

import pytest

from agentkd.errors import DataError
from agentkd.evaluate import CallsScorer, ContainsScorer, ExactScorer, RegexScorer
from agentkd.protocols import Scorer
from agentkd.schema import ToolCall, ToolSpec


@pytest.mark.parametrize("scorer", [ExactScorer(), ContainsScorer(), RegexScorer(), CallsScorer()])
def test_every_scorer_keeps_the_promise(scorer):
    assert isinstance(scorer, Scorer)


@pytest.mark.parametrize(
    ("item", "output", "value"),
    [
        ("42", " 42\n", 1.0),
        ("a b", "a  b", 1.0),
        ("Yes", "yes", 0.0),
        (["1", "one"], "one", 1.0),
        ("1", "11", 0.0),
    ],
)
def test_exact_forgives_white_space_alone(item, output, value):
    assert ExactScorer().score(item, output, {})[0] == value


@pytest.mark.parametrize(
    ("item", "output", "value"),
    [
        ("Paris", "It is PARIS.", 1.0),
        (["a", "b"], "only a", 0.5),
        (["x"], "nothing", 0.0),
        ("x y", "x\n y", 1.0),
    ],
)
def test_contains_scores_the_share_that_occurs(item, output, value):
    assert ContainsScorer().score(item, output, {})[0] == value


def test_regex_searches_anywhere_and_refuses_a_broken_pattern():
    assert RegexScorer().score(r"\b\d{4}\b", "in 1999.", {})[0] == 1.0
    assert RegexScorer().score(r"^\d+$", "in 1999.", {})[0] == 0.0
    with pytest.raises(DataError, match="not a regular expression"):
        RegexScorer().score("(", "x", {})


def call(tool="add", **arguments):
    return ToolCall(name=tool, arguments=arguments)


@pytest.mark.parametrize(
    ("made", "value", "says"),
    [
        ([call(a=2, b="x y")], 1.0, ""),
        ([call(a=2.0, b=" x  y")], 1.0, ""),
        ([call(a=3, b="x y")], 0.0, "the value 3 of `a` is wrong"),
        ([call(a=2)], 0.0, "`b` is missing"),
        ([call(a=2, b="x y", c=1)], 0.0, "`c` is not wanted"),
        ([call("sub", a=2, b="x y")], 0.0, "the tool `sub` is wrong"),
        ([], 0.0, "0 calls were made, 1 are wanted"),
        ([call(a=2, b="x y")] * 2, 0.0, "2 calls were made"),
    ],
)
def test_calls_must_be_the_same_in_order(made, value, says):
    score, _, text = CallsScorer().score([call(a=2, b="x y")], made, {})
    assert score == value
    assert says in text


def test_true_is_not_one_in_a_call_and_nested_values_are_compared():
    wanted = [call(flag=True, deep={"a": [1, "x"]})]
    assert CallsScorer().score(wanted, [call(flag=True, deep={"a": [1.0, "x "]})], {})[0] == 1.0
    assert CallsScorer().score(wanted, [call(flag=1, deep={"a": [1, "x"]})], {})[0] == 0.0
    assert CallsScorer().score(wanted, [call(flag=True, deep={"a": [1]})], {})[0] == 0.0


def test_valid_call_is_judged_by_the_offered_schema():
    tool = ToolSpec(name="add", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})
    context = {"tools": [tool]}
    wanted = [call(a=1)]
    assert CallsScorer().score(wanted, [call(a=2)], context)[1] == {"tool_choice": 1.0, "valid_call": 1.0}
    assert CallsScorer().score(wanted, [call(a="2")], context)[1]["valid_call"] == 0.0
    assert CallsScorer().score(wanted, [call("other")], context)[1] == {"tool_choice": 0.0, "valid_call": 0.0}


def test_an_item_that_is_no_text_is_refused():
    with pytest.raises(DataError):
        ExactScorer().score(7, "7", {})
    with pytest.raises(DataError):
        ContainsScorer().score([], "7", {})
