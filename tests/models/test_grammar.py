"""Constrained decoding can write every call as `json.dumps` writes it, and nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import hf
from agentkd.errors import ModelError
from agentkd.models import grammar
from agentkd.schema import ToolCall, ToolSpec

RIDE = ToolSpec(
    name="uber.ride",
    parameters={
        "type": "dict",
        "properties": {
            "loc": {"type": "string"},
            "kind": {"type": "string", "enum": ["plus", 'comfort "x"']},
            "price": {"type": "float"},
            "stops": {"type": "array", "items": {"type": "string"}},
            "opts": {"type": "dict", "properties": {"quiet": {"type": "boolean"}}},
        },
        "required": ["loc", "kind"],
    },
)
PING = ToolSpec(name="ping")


class _Bench:
    """Compiles grammars for the tiny tokenizer and runs texts through them."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = hf.load_tokenizer(folder)
        self.n_vocab = len(self.tokenizer)
        self.compiler = grammar.GrammarCompiler(
            self.tokenizer, self.n_vocab, sorted(hf.end_ids(self.tokenizer))
        )

    def allowed(self, constraint: grammar.Constraint) -> set[int]:
        bits = np.zeros(-(-self.n_vocab // 32), dtype=np.int32)
        constraint.mask(bits)
        return set(np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist())

    def accepts(self, text: str, rules: str) -> bool:
        """Tell whether the text can be written, token by token, and may end there."""
        constraint = self.compiler.constraint(rules)
        for token in self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids:
            if constraint.is_done or token not in self.allowed(constraint):
                return False
            constraint.take(token)
        return constraint.is_done or bool(self.allowed(constraint) & hf.end_ids(self.tokenizer))

    def wander(self, rules: str, seed: int) -> str:
        """Write a random text that the grammar allows."""
        rng = random.Random(seed)
        constraint = self.compiler.constraint(rules)
        ids: list[int] = []
        while len(ids) < 2000:
            ids += constraint.forced()
            if constraint.is_done:
                return str(self.tokenizer.decode(ids))
            token = rng.choice(sorted(self.allowed(constraint)))
            ids.append(token)
            constraint.take(token)
            if constraint.is_done:
                return str(self.tokenizer.decode(ids))
        raise AssertionError("the grammar let a random text run on")


@pytest.fixture(scope="module")
def bench(tiny: Path) -> _Bench:
    return _Bench(tiny)


@pytest.mark.parametrize(
    "arguments",
    [
        {"loc": 'Zürich, 5th\n"x"', "kind": 'comfort "x"'},
        {"loc": "", "kind": "plus", "price": 12.5, "stops": ["a", "b"], "opts": {"quiet": True}},
        {"loc": "x", "kind": "plus", "stops": [], "opts": {}},
        {"loc": "x", "kind": "plus", "price": -3},
    ],
)
def test_training_targets_are_in_the_grammar(bench: _Bench, arguments: dict[str, Any]) -> None:
    text = hf.call_text(ToolCall(name="uber.ride", arguments=arguments))
    assert bench.accepts(text, grammar.tool_call_grammar([RIDE, PING]))
    assert grammar.parse_calls(text, [RIDE, PING])[0].arguments == arguments


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "uber.ride", "arguments": {"loc": "x"}}',
        '{"name": "uber.ride", "arguments": {"loc": "x", "kind": "other"}}',
        '{"name": "uber.ride", "arguments": {"loc": "x", "kind": "plus", "more": 1}}',
        '{"name": "uber.ride", "arguments": {"loc": 3, "kind": "plus"}}',
        '{"name":"ping","arguments":{}}',
        '{"name": "pong", "arguments": {}}',
        "Sure! ",
        '{"name": "uber.ride", "arguments": {"loc": "' + "x" * 97 + '", "kind": "plus"}}',
    ],
)
def test_anything_else_is_not(bench: _Bench, text: str) -> None:
    assert not bench.accepts(text, grammar.tool_call_grammar([RIDE, PING]))


def test_random_texts_of_the_grammar_are_valid_calls(bench: _Bench) -> None:
    rules = grammar.tool_call_grammar([RIDE, PING])
    for seed in range(8):
        (call,) = grammar.parse_calls(bench.wander(rules, seed), [RIDE, PING])
        if call.name == "uber.ride":
            assert {"loc", "kind"} <= call.arguments.keys() <= RIDE.parameters["properties"].keys()
            assert all(len(str(stop)) <= 96 for stop in call.arguments.get("stops", []))


def test_an_answer_may_take_the_place_of_a_call(bench: _Bench) -> None:
    rules = grammar.tool_call_grammar([PING], may_answer=True)
    assert bench.accepts("It is {late}.\n", rules)
    assert bench.accepts('{"name": "ping", "arguments": {}}', rules)
    assert not bench.accepts('{"name": "oops"', rules)


def test_a_choice_is_one_of_the_texts(bench: _Bench) -> None:
    rules = grammar.choice_grammar(["yes", "no", 'say "so"'])
    assert bench.accepts('say "so"', rules)
    assert bench.accepts("yes", rules)
    assert not bench.accepts("yesno", rules)
    assert not bench.accepts("ye", rules)
    only = bench.compiler.constraint(grammar.choice_grammar(["only this"]))
    assert bench.tokenizer.decode(only.forced()) == "only this"
    assert only.is_done
    with pytest.raises(ModelError):
        grammar.choice_grammar([])


def test_schemas_with_references_unions_and_foreign_types_compile(bench: _Bench) -> None:
    schema = {
        "$defs": {
            "Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "v": {"type": "any"}}}
        },
        "type": "object",
        "properties": {
            "node": {"$ref": "#/$defs/Node"},
            "pair": {"type": "tuple"},
            "s": {"type": ["string", "null"]},
        },
        "required": ["pair"],
    }
    assert bench.accepts(
        '{"node": {"next": {"v": [1, "a"]}}, "pair": [1], "s": null}', grammar.schema_grammar(schema)
    )
    assert grammar.normalise({"type": "tuple"})["maxItems"] == grammar.MAX_ITEMS
    assert bench.accepts('"x"', grammar.schema_grammar({"description": "a property that states no type"}))
    with pytest.raises(ModelError, match="cannot be compiled"):
        bench.compiler.constraint(grammar.schema_grammar({"type": "string", "pattern": "(" * 5}))


def test_only_whole_calls_of_known_tools_are_parsed() -> None:
    for text in (
        "",
        "{}",
        '{"name": "ping"}',
        '{"name": "x", "arguments": {}}',
        '{"name": "ping", "arguments": []}',
    ):
        assert grammar.parse_calls(text, [PING]) == ()
    assert grammar.parse_calls(json.dumps({"name": "ping", "arguments": {}}), [PING])[0].name == "ping"
