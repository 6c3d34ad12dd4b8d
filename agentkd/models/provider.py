"""A student as a LiteLLM provider: `litellm.completion(model="agentkd/<checkpoint>", messages=...)`.

LiteLLM keeps its custom providers in one list per process; ours is appended to it once and asks every
registered workspace in turn.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from agentkd.errors import AgentkdError, NotFoundError
from agentkd.models.litellm import import_litellm
from agentkd.models.wire import mend_json
from agentkd.protocols import Model
from agentkd.schema import Message, Reply, ToolCall, ToolSpec

__all__ = ["PROVIDER", "register"]

PROVIDER = "agentkd"
Resolve = Callable[[str], Model]

_RESOLVERS: list[Resolve] = []
_LOCK = threading.Lock()


def register(resolve: Resolve) -> Callable[[], None]:
    """Make checkpoints reachable as `agentkd/<name>`, and return a function that takes it back.

    `resolve` gives the model of a checkpoint's name (or `base`) and raises NotFoundError for one that it
    does not have; the newest registration is asked first. Other custom providers stay untouched.
    """
    litellm = import_litellm()
    with _LOCK:
        _RESOLVERS.append(resolve)
        if not any(entry["provider"] == PROVIDER for entry in litellm.custom_provider_map):
            entry = {"provider": PROVIDER, "custom_handler": _custom_llm(litellm)}
            litellm.custom_provider_map = [*litellm.custom_provider_map, entry]

    def unregister() -> None:
        with _LOCK:
            if resolve in _RESOLVERS:
                _RESOLVERS.remove(resolve)

    return unregister


def _find(name: str) -> Model:
    with _LOCK:
        resolvers = _RESOLVERS[::-1]
    for resolve in resolvers:
        try:
            return resolve(name)
        except NotFoundError:
            continue
    raise NotFoundError(
        f"no open workspace has the checkpoint `{name}`", hint="`agentkd checkpoints list` shows them"
    )


def _answer(model: str, messages: Sequence[dict[str, Any]], options: dict[str, Any]) -> Reply:
    sampling: dict[str, Any] = {"purpose": "serve"}
    limit = options.get("max_tokens") or options.get("max_completion_tokens")
    if limit:
        sampling["max_new_tokens"] = limit
    for name in ("temperature", "seed"):
        if options.get(name) is not None:
            sampling[name] = options[name]
    tools = [_tool(data) for data in options.get("tools") or ()]
    choice = options.get("tool_choice")
    if isinstance(choice, dict):  # one tool by name
        wanted = choice.get("function", {}).get("name")
        tools, choice = [tool for tool in tools if tool.name == wanted], "required"
    if choice:
        sampling["tool_choice"] = choice
    wanted_format = options.get("response_format") or {}
    if isinstance(wanted_format, dict) and wanted_format.get("type") == "json_schema":
        sampling["schema"] = wanted_format["json_schema"]["schema"]
    return _find(model).reply([_message(data) for data in messages], tools, **sampling)


def _tool(data: dict[str, Any]) -> ToolSpec:
    function = data["function"]
    return ToolSpec(
        name=function["name"],
        description=function.get("description") or "",
        parameters=function.get("parameters") or {"type": "object", "properties": {}},
    )


def _message(data: dict[str, Any]) -> Message:
    content = data.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(part.get("text", "") for part in content if part.get("type") == "text")
    calls = tuple(
        ToolCall(
            name=call["function"]["name"],
            arguments=mend_json(call["function"].get("arguments") or "{}"),
            id=call.get("id") or "",
        )
        for call in data.get("tool_calls") or ()
    )
    role = {"developer": "system", "function": "tool"}.get(data["role"], data["role"])
    return Message(
        role=role,
        content=content,
        tool_calls=calls,
        tool_call_id=data.get("tool_call_id") or "",
        name=data.get("name") or "",
    )


def _wire_calls(reply: Reply) -> list[dict[str, Any]]:
    stamp = time.time_ns()
    return [
        {
            "id": call.id or f"call_{stamp:x}_{position}",
            "type": "function",
            "index": position,
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for position, call in enumerate(reply.tool_calls)
    ]


def _finish_reason(reply: Reply) -> str:
    return "tool_calls" if reply.tool_calls else "length" if reply.finish_reason == "length" else "stop"


def _usage(reply: Reply) -> dict[str, int]:
    used = reply.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def _fill(litellm: Any, response: Any, model: str, reply: Reply) -> Any:
    """Write a reply into LiteLLM's response object; a call's JSON text is not repeated as content."""
    response.choices = [
        litellm.Choices(
            index=0,
            finish_reason=_finish_reason(reply),
            message=litellm.Message(
                role="assistant",
                content=None if reply.tool_calls else reply.text,
                tool_calls=_wire_calls(reply) or None,
            ),
        )
    ]
    response.model = f"{PROVIDER}/{model}"
    response.usage = litellm.Usage(**_usage(reply))
    return response


def _chunks(reply: Reply) -> Iterator[dict[str, Any]]:
    """Yield a whole reply as LiteLLM's generic chunks: the text, then each call; the last one ends it."""
    parts: list[dict[str, Any]] = []
    if reply.tool_calls:
        parts += [{"text": "", "tool_use": call} for call in _wire_calls(reply)]
    else:
        parts.append({"text": reply.text, "tool_use": None})
    for position, part in enumerate(parts):
        is_last = position == len(parts) - 1
        yield {
            **part,
            "index": 0,
            "is_finished": is_last,
            "finish_reason": _finish_reason(reply) if is_last else "",
            "usage": _usage(reply) if is_last else None,
        }


def _custom_llm(litellm: Any) -> Any:
    from litellm.llms.custom_llm import CustomLLM, CustomLLMError

    def answer(kwargs: dict[str, Any]) -> Reply:
        try:
            return _answer(kwargs["model"], kwargs["messages"], kwargs["optional_params"])
        except NotFoundError as error:
            raise CustomLLMError(status_code=404, message=str(error)) from error
        except AgentkdError as error:
            raise CustomLLMError(status_code=500, message=str(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CustomLLMError(status_code=400, message=f"this request cannot be read: {error}") from error

    class StudentProvider(CustomLLM):  # type: ignore[misc]
        """Answers for the checkpoints of all registered workspaces."""

        def completion(self, *args: Any, **kwargs: Any) -> Any:
            return _fill(litellm, kwargs["model_response"], kwargs["model"], answer(kwargs))

        async def acompletion(self, *args: Any, **kwargs: Any) -> Any:
            reply = await asyncio.to_thread(answer, kwargs)
            return _fill(litellm, kwargs["model_response"], kwargs["model"], reply)

        def streaming(self, *args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
            yield from _chunks(answer(kwargs))

        async def astreaming(self, *args: Any, **kwargs: Any) -> AsyncIterator[dict[str, Any]]:
            for chunk in _chunks(await asyncio.to_thread(answer, kwargs)):
                yield chunk

    return StudentProvider()
