"""Reads the benchmark's rows and turns its function descriptions into tool specifications.

Nothing of the benchmark's code runs: the files are JSON lines, read as data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkd.errors import DataError
from agentkd.schema import ToolSpec

__all__ = ["CATEGORIES", "Answer", "Row", "json_schema", "read_rows", "tool_spec"]

CATEGORIES = ("live_multiple", "live_simple")
"""Categories of single calls by real users, in the order in which they are taken."""

MAX_STRING_CHARS = 256
"""Longest string argument: without a bound a small model under a grammar may never close its quotes."""

MAX_ITEMS = 32
"""Longest list argument, for the same reason."""

_JSON_TYPES = {
    "string": "string",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "boolean": "boolean",
    "array": "array",
    "tuple": "array",
    "dict": "object",
    "object": "object",
}

Answer = Mapping[str, tuple[Any, ...]]
"""Accepted values by argument; an accepted `""` means that the argument may be left out."""


@dataclass(frozen=True)
class Row:
    """One request of the benchmark with its single accepted call."""

    id: str
    """Identifier in the benchmark."""
    category: str
    """`live_multiple` or `live_simple`."""
    prompt: str
    """What the user wrote."""
    system: str
    """Instructions that precede the request in 48 of 1311 rows; usually empty."""
    tools: tuple[ToolSpec, ...]
    """Tools that this row offers."""
    tool: str
    """Name of the tool that is to be called."""
    answer: Answer
    """Accepted values by argument."""


def read_rows(folder: Path) -> list[Row]:
    """Read all rows of `CATEGORIES` that ask for exactly one call, in file order.

    Args:
        folder: Unpacked wheel, the folder that holds `bfcl_eval/data`.

    Raises:
        DataError: a file is missing or a line is not what the benchmark documents.
    """
    data = folder / "bfcl_eval" / "data"
    return [row for category in CATEGORIES for row in _read_category(data, category)]


def _read_category(data: Path, category: str) -> Iterator[Row]:
    name = f"BFCL_v4_{category}.json"
    answers = {line["id"]: line["ground_truth"] for line in _lines(data / "possible_answer" / name)}
    for line in _lines(data / name):
        try:
            gold = answers.get(line["id"], [])
            if len(gold) == 1 and len(gold[0]) == 1:
                yield _row(line, category, gold[0])
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"row `{line.get('id')}` of `{name}` has another shape than documented: {error!r}",
                path=str(data / name),
            ) from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"`{path}` cannot be read: {error.strerror}", hint="is this the wheel bfcl-eval?", path=str(path)
        ) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"line {number} of `{path}` is not JSON: {error}", path=str(path), line=number
                ) from error


def _row(line: Mapping[str, Any], category: str, gold: Mapping[str, Any]) -> Row:
    messages = line["question"][0]
    ((tool, arguments),) = gold.items()
    return Row(
        id=line["id"],
        category=category,
        prompt="\n".join(m["content"].strip() for m in messages if m["role"] == "user"),
        system="\n".join(m["content"].strip() for m in messages if m["role"] == "system"),
        tools=tuple(tool_spec(function) for function in line["function"]),
        tool=tool,
        answer={name: tuple(values) for name, values in arguments.items()},
    )


def tool_spec(function: Mapping[str, Any]) -> ToolSpec:
    """Turn a function description of the benchmark into a tool specification."""
    return ToolSpec(
        name=function["name"],
        description=" ".join(function.get("description", "").split()),
        parameters=json_schema(function["parameters"]),
    )


def json_schema(described: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the benchmark's type description into JSON Schema.

    Types `dict`, `float` and `tuple` become `object`, `number` and `array`, `any` has no type; objects
    with named properties take no others; strings and lists get a bound on their length.
    """
    kind = _JSON_TYPES.get(described.get("type", "any"))
    schema: dict[str, Any] = {"type": kind} if kind else {}
    schema.update({key: described[key] for key in ("description", "enum", "default") if key in described})
    if kind == "string" and "enum" not in schema:
        schema["maxLength"] = MAX_STRING_CHARS
    if kind == "array":
        schema["maxItems"] = MAX_ITEMS
        schema["items"] = json_schema(described["items"]) if "items" in described else {}
    if kind == "object" and "properties" in described:
        properties = described["properties"]
        schema["properties"] = {name: json_schema(inner) for name, inner in properties.items()}
        schema["required"] = [name for name in described.get("required", ()) if name in properties]
        schema["additionalProperties"] = False
    return schema
