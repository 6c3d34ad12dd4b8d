"""The decorator `@agentkd.tool`: a typed function becomes a tool."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from typing import Any, Generic, ParamSpec, TypeVar, overload

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from agentkd.schema import ToolResult, ToolSpec
from agentkd.schema.message import Declared
from agentkd.tools.signature import spec_of

__all__ = ["FunctionTool", "tool"]

P = ParamSpec("P")
R = TypeVar("R")


class FunctionTool(Generic[P, R]):
    """A function that a model may call; calling the object itself still calls the function."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str = "",
        description: str = "",
        has_side_effects: bool = False,
        trust: Declared = "",
    ) -> None:
        self.spec: ToolSpec
        self.spec, self._arguments = spec_of(
            function, name=name, description=description, has_side_effects=has_side_effects, trust=trust
        )
        self._function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function, without any check."""
        return self._function(*args, **kwargs)

    def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Check the arguments and run the function; whatever goes wrong becomes `error`."""
        try:
            checked = self._arguments.model_validate(dict(arguments))
        except ValidationError as error:
            return ToolResult(error=_wrong_arguments(self.spec.name, error))
        values = {
            field.alias or name: getattr(checked, name)
            for name, field in type(checked).model_fields.items()
            if name in checked.model_fields_set
        }
        try:
            value: Any = self._function(**values)  # type: ignore[call-arg]
            if inspect.iscoroutine(value):
                value = _wait(value)
        except Exception as error:  # the model must hear of it and go on
            return ToolResult(error=f"{type(error).__name__}: {error}")
        return _result(value)


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(
    *, name: str = "", description: str = "", has_side_effects: bool = False, trust: Declared = ""
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str = "",
    description: str = "",
    has_side_effects: bool = False,
    trust: Declared = "",
) -> FunctionTool[P, R] | Callable[[Callable[P, R]], FunctionTool[P, R]]:
    """Make a tool of a typed function.

    The docstring becomes the description, its `Args` section describes the parameters, and the types
    become the JSON Schema. Use it plain, or with options for another name, to mark side effects, or to say
    with `trust="trusted"` that its output may be relied on: else what is learnt from it waits for proof.

    Example::

        @agentkd.tool
        def find_order(email: str) -> list[str]:
            \"\"\"List the orders placed with this e-mail address.\"\"\"
            return orders.by_email(email)
    """

    def wrap(function: Callable[P, R]) -> FunctionTool[P, R]:
        return FunctionTool(
            function, name=name, description=description, has_side_effects=has_side_effects, trust=trust
        )

    return wrap if function is None else wrap(function)


def _wrong_arguments(name: str, error: ValidationError) -> str:
    faults = "; ".join(
        f"{'.'.join(str(part) for part in fault['loc']) or 'arguments'}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    )
    return f"wrong arguments for `{name}`: {faults}"


def _result(value: Any) -> ToolResult:
    if isinstance(value, ToolResult):
        return value
    if value is None:
        return ToolResult(content="done")
    try:
        plain = to_jsonable_python(value)
        text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    except (ValueError, TypeError):
        return ToolResult(content=str(value))
    return ToolResult(content=text, value=plain)


def _wait(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, also where this thread already runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["value"] = asyncio.run(coroutine)
        except BaseException as error:  # handed over to the waiting thread
            outcome["error"] = error

    thread = threading.Thread(target=copy_context().run, args=(work,), name="agentkd-tool")
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]
