"""Turn a function's signature into a ToolSpec and a pydantic model that checks the arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticUserError

from agentkd.errors import ConfigError
from agentkd.schema import ToolSpec
from agentkd.schema.message import Declared
from agentkd.tools.docstring import parse_docstring

__all__ = ["arguments_model", "spec_of"]

_NAME = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")
_ALLOWED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def spec_of(
    function: Callable[..., Any],
    *,
    name: str = "",
    description: str = "",
    has_side_effects: bool = False,
    trust: Declared = "",
) -> tuple[ToolSpec, type[BaseModel]]:
    """Return how a model sees a function, and the model that checks its arguments.

    The docstring gives the description, its `Args` section describes the parameters. Raises ConfigError
    for a parameter without a type, `*args`, `**kwargs`, or a type that JSON Schema cannot express.
    """
    name = name or function.__name__
    if not _NAME.match(name):
        raise ConfigError(
            f"`{name}` cannot be a tool's name",
            hint="use at most 64 of letters, digits, `_`, `-` and `.`; pass `name=` to the decorator",
        )
    text, documented = parse_docstring(function.__doc__)
    model = arguments_model(function, name, documented)
    try:
        schema = model.model_json_schema(by_alias=True)
    except PydanticUserError as error:
        raise ConfigError(
            f"tool `{name}` has a parameter that JSON Schema cannot express: {error}".partition("\n")[0],
            hint="use str, int, float, bool, lists, dicts, Literal, Enum or pydantic models",
        ) from error
    spec = ToolSpec(
        name=name,
        description=description or text,
        parameters=_plain(schema),
        has_side_effects=has_side_effects,
        trust=trust,
    )
    return spec, model


def arguments_model(
    function: Callable[..., Any], name: str, documented: dict[str, str] | None = None
) -> type[BaseModel]:
    """Return a pydantic model with one field per parameter; the aliases are the parameters' names."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"tool `{name}` names a type that cannot be found: {error}",
            hint="define or import the type at the top of its module",
        ) from error
    fields: dict[str, Any] = {}
    for position, (parameter, details) in enumerate(inspect.signature(function).parameters.items()):
        if details.kind not in _ALLOWED:
            raise ConfigError(
                f"tool `{name}` takes `{details}`, which has no name that a model could fill",
                hint="give the tool plain named parameters",
            )
        if parameter not in hints:
            raise ConfigError(
                f"parameter `{parameter}` of tool `{name}` has no type", hint=f"write `{parameter}: str`"
            )
        default = ... if details.default is inspect.Parameter.empty else details.default
        note = (documented or {}).get(parameter)
        extra: dict[str, Any] = {"description": note} if note else {}  # None would hide that of `Annotated`
        # The field has a neutral name, because a parameter may be called `schema` or `copy`.
        fields[f"p{position}"] = (hints[parameter], Field(default, alias=parameter, **extra))
    try:
        return create_model(
            name,
            __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False, protected_namespaces=()),
            **fields,
        )
    except PydanticUserError as error:
        raise ConfigError(
            f"tool `{name}` has a parameter of a type that cannot be checked: {error}".partition("\n")[0],
            hint="use str, int, float, bool, lists, dicts, Literal, Enum or pydantic models",
        ) from error


def _plain(schema: Any, *, is_properties: bool = False) -> Any:
    """Drop the titles that pydantic adds: they cost tokens and say nothing; a property `title` stays."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _plain(value, is_properties=not is_properties and key in ("properties", "$defs"))
        for key, value in schema.items()
        if is_properties or key != "title" or not isinstance(value, str)
    }
