"""Keep a model's output to a grammar: tool calls, a JSON schema, or one of several choices.

JSON comes out exactly as `json.dumps` writes it (one space after `:` and `,`, keys in the schema's order),
so that decoded calls and training targets are the same text. Masks and forced tokens come from `llguidance`.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from agentkd.errors import MissingExtraError, ModelError
from agentkd.schema import ToolCall, ToolSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "Constraint",
    "GrammarCompiler",
    "Script",
    "choice_grammar",
    "normalise",
    "parse_calls",
    "schema_grammar",
    "tool_call_grammar",
]

MAX_LENGTH = 96
MAX_ITEMS = 16
_MAX_DEPTH = 8
_MAX_INTEGER = 10**15  # bounds a small model's run-on digits

_TYPES = {
    "dict": "object", "map": "object", "hashmap": "object", "float": "number", "double": "number",
    "int": "integer", "long": "integer", "tuple": "array", "list": "array", "arraylist": "array",
    "set": "array", "str": "string", "char": "string", "bool": "boolean", "none": "null",
}  # fmt: skip
_JSON_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_JSON_OPTIONS = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "coerce_one_of": True,
    "lenient": True,
    "json_allowed_escapes": '"\\nrt',
}
_KEPT = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "minItems", "pattern")
_MAX_CACHED = 128


def normalise(schema: Mapping[str, Any], *, max_length: int = MAX_LENGTH) -> dict[str, Any]:
    """Return a JSON Schema that can be compiled: foreign types mapped, references inlined, sizes bounded.

    Strings without `maxLength` get `max_length`, arrays at most 16 items, integers 15 digits. Objects hold
    their named properties and nothing else; an object without properties is free.
    """
    definitions = {**schema.get("definitions", {}), **schema.get("$defs", {})}
    return _Normaliser(definitions, max_length).schema(schema, 0)


class _Normaliser:
    def __init__(self, definitions: Mapping[str, Any], max_length: int) -> None:
        self._definitions = definitions
        self._max_length = max_length

    def schema(self, schema: Any, depth: int) -> dict[str, Any]:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return self._anything()
        if "$ref" in schema:
            return self.schema(self._definitions.get(str(schema["$ref"]).rpartition("/")[2]), depth + 1)
        if "const" in schema:
            return {"const": schema["const"]}
        if schema.get("enum"):
            return {"enum": list(schema["enum"])}
        for key in ("anyOf", "oneOf", "allOf"):
            if schema.get(key):
                parts = [self.schema(part, depth + 1) for part in schema[key]]
                return parts[0] if key == "allOf" or len(parts) == 1 else {"anyOf": parts}
        kind = schema.get("type")
        if isinstance(kind, list):
            return {"anyOf": [self.schema({**schema, "type": one}, depth + 1) for one in kind]}
        return self._typed(schema, self._kind(kind, schema), depth)

    def _kind(self, kind: Any, schema: Mapping[str, Any]) -> str:
        if kind is None:
            return "object" if "properties" in schema else "any"
        word = str(kind).lower()
        word = _TYPES.get(word, word)
        return word if word in _JSON_TYPES else "any"

    def _typed(self, schema: Mapping[str, Any], kind: str, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {"type": kind, **{key: schema[key] for key in _KEPT if key in schema}}
        if kind == "any":
            return self._anything()
        if kind == "string":
            out["maxLength"] = schema.get("maxLength", max(self._max_length, schema.get("minLength", 0)))
        elif kind == "integer" and not {"minimum", "exclusiveMinimum"} & out.keys():
            out = {"maximum": _MAX_INTEGER, **out, "minimum": -_MAX_INTEGER}
        elif kind == "array":
            items = schema.get("items")
            out["items"] = self.schema(items, depth + 1) if items else self._scalar()
            out["maxItems"] = schema.get("maxItems", max(MAX_ITEMS, schema.get("minItems", 0)))
        elif kind == "object" and schema.get("properties"):
            properties = schema["properties"]
            out["properties"] = {name: self.schema(part, depth + 1) for name, part in properties.items()}
            out["required"] = [name for name in properties if name in (schema.get("required") or ())]
            out["additionalProperties"] = False
        elif kind == "object":
            inner = schema.get("additionalProperties")
            inner = self.schema(inner, depth + 1) if isinstance(inner, Mapping) else self._scalar()
            out |= {"additionalProperties": inner if schema.get("additionalProperties", True) else False}
        return out

    def _scalar(self) -> dict[str, Any]:
        string = {"type": "string", "maxLength": self._max_length}
        return {"anyOf": [string, {"type": "number"}, {"type": "boolean"}, {"type": "null"}]}

    def _anything(self) -> dict[str, Any]:
        scalar = self._scalar()
        array = {"type": "array", "items": scalar, "maxItems": MAX_ITEMS}
        return {"anyOf": [*scalar["anyOf"], array, {"type": "object", "additionalProperties": scalar}]}


def tool_call_grammar(
    tools: Sequence[ToolSpec], *, may_answer: bool = False, max_length: int = MAX_LENGTH
) -> str:
    """Return the grammar of one call `{"name": ..., "arguments": {...}}` of one of `tools`.

    With `may_answer`, text that does not begin with a brace is allowed instead of a call.
    """
    calls = [_call_schema(tool, max_length) for tool in tools]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if not may_answer:
        return _json_grammar(schema)
    inline = json.dumps({**schema, "x-guidance": _JSON_OPTIONS})
    return _lark(f"start: call | text\ncall: %json {inline}\ntext: /(?s:[^{{].*)/\n")


def _call_schema(tool: ToolSpec, max_length: int) -> dict[str, Any]:
    arguments = normalise({**tool.parameters, "type": "object"}, max_length=max_length)
    if not arguments.get("properties"):
        arguments = {"type": "object", "properties": {}, "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def schema_grammar(schema: Mapping[str, Any], *, max_length: int = MAX_LENGTH) -> str:
    """Return the grammar of the JSON values that `schema` allows."""
    return _json_grammar(normalise(schema, max_length=max_length))


def choice_grammar(choices: Sequence[str]) -> str:
    """Return the grammar of exactly one of `choices`."""
    if not choices:
        raise ModelError("a choice needs at least one text to choose from")
    return _lark("start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices) + "\n")


def _json_grammar(schema: Mapping[str, Any]) -> str:
    return str(_llguidance().LLMatcher.grammar_from_json_schema(dict(schema), overrides=_JSON_OPTIONS))


def _lark(text: str) -> str:
    return str(_llguidance().LLMatcher.grammar_from_lark(text))


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise MissingExtraError.of("llguidance", "train", "a tool call of a local model") from None
    return llguidance


def parse_calls(text: str, tools: Sequence[ToolSpec]) -> tuple[ToolCall, ...]:
    """Return the call that `text` is, if it is the whole JSON of a call of one of `tools`; else nothing."""
    try:
        said = json.loads(text)
    except ValueError:
        return ()
    if not isinstance(said, dict) or said.keys() != {"name", "arguments"}:
        return ()
    names = {tool.name for tool in tools}
    if said["name"] not in names or not isinstance(said["arguments"], dict):
        return ()
    return (ToolCall(name=said["name"], arguments=said["arguments"]),)


class Constraint(Protocol):
    """What the next tokens of one reply may be."""

    is_done: bool
    """Whether nothing may follow."""

    def forced(self) -> list[int]:
        """Take and return the tokens that must come next; may be empty."""

    def mask(self, out: NDArray[np.int32]) -> None:
        """Write the allowed tokens as bits, `[ceil(vocab / 32)]`."""

    def take(self, token: int) -> None:
        """Go on past a chosen token."""


class Script:
    """A constraint that forces given tokens: for scoring a text under the model."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = list(ids)
        self.is_done = False

    def forced(self) -> list[int]:
        """Return all tokens at once."""
        self.is_done = True
        return self._ids

    def mask(self, out: NDArray[np.int32]) -> None:
        """Allow everything; never asked for, because nothing is left to choose."""
        out.fill(-1)

    def take(self, token: int) -> None:
        """Do nothing."""


class GrammarCompiler:
    """Compiles grammars for one tokenizer; a grammar that was used before costs a copy."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, n_vocab: int, stop_ids: Sequence[int]) -> None:
        llguidance = _llguidance()
        from llguidance.hf import from_tokenizer

        self._matcher = llguidance.LLMatcher
        self._tokenizer = from_tokenizer(
            tokenizer,
            n_vocab=n_vocab,
            eos_token=list(stop_ids),
            slices=llguidance.LLTokenizer.json_slices(),
        )
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def constraint(self, grammar: str) -> Constraint:
        """Return a fresh constraint; raises ModelError where the grammar cannot be compiled."""
        with self._lock:
            matcher = self._compiled.get(grammar)
            if matcher is None:
                matcher = self._matcher(self._tokenizer, grammar, log_level=0)
                if matcher.is_error():
                    raise ModelError(
                        f"the grammar of a tool or schema cannot be compiled: {matcher.get_error()[:300]}",
                        hint="simplify the JSON Schema: patterns and deep nesting are the usual cause",
                    )
                self._compiled[grammar] = matcher
            self._compiled.move_to_end(grammar)
            while len(self._compiled) > _MAX_CACHED:
                self._compiled.popitem(last=False)
            return _Guided(matcher.deep_copy())


class _Guided:
    """A constraint by an llguidance matcher."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self.is_done = False

    def forced(self) -> list[int]:
        ids: list[int] = [] if self.is_done else list(self._matcher.compute_ff_tokens())
        if ids and not self._matcher.consume_tokens(ids):
            raise self._broken()
        self.is_done = bool(self._matcher.is_stopped())
        return ids

    def mask(self, out: NDArray[np.int32]) -> None:
        self._matcher.unsafe_compute_mask_ptr(out.ctypes.data, out.nbytes)
        if self._matcher.is_error():
            raise self._broken()

    def take(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise self._broken()
        self.is_done = bool(self._matcher.is_stopped())

    def _broken(self) -> ModelError:
        return ModelError(f"constrained decoding failed: {self._matcher.get_error()[:300]}")
