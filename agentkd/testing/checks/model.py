"""Does a model keep its promise? Replies, forced and forbidden tool calls, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agentkd.protocols import Model
from agentkd.schema import Message, Reply, ToolSpec
from agentkd.testing.checks.claim import claim

__all__ = ["check_model"]

_ASK = (Message(role="user", content="Request: find the orders of ann@example.com"),)
_TOOL = ToolSpec(
    name="find_order",
    description="List the orders of a customer.",
    parameters={
        "type": "object",
        "properties": {"email": {"type": "string", "maxLength": 20}, "limit": {"enum": [1, 5, 10]}},
        "required": ["email", "limit"],
        "additionalProperties": False,
    },
)


def check_model(
    model: Model, *, calls_tools: bool = True, is_deterministic: bool = True, max_new_tokens: int = 64
) -> None:
    """Check that `model` keeps `protocols.Model`; makes about ten short calls.

    Args:
        model: The model.
        calls_tools: Whether `tool_choice="required"` must give a valid call.
        is_deterministic: Whether equal requests at temperature 0 must give equal replies.
        max_new_tokens: Longest reply.
    """
    claim(isinstance(model.name, str) and model.name, f"`name` must be a non-empty text, not {model.name!r}")
    keywords: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": 0.0, "seed": 1}
    first = _reply(model, (), tool_choice="none", **keywords)
    claim(not first.tool_calls, "a reply without tools holds tool calls")
    if is_deterministic:
        second = _reply(model, (), tool_choice="none", **keywords)
        claim(first.text == second.text, "equal requests at temperature 0 gave different texts")
    if calls_tools:
        _check_forced_call(_reply(model, (_TOOL,), tool_choice="required", **keywords))
        none = _reply(model, (_TOOL,), tool_choice="none", **keywords)
        claim(not none.tool_calls, '`tool_choice="none"` gave a tool call')
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: _reply(model, (), tool_choice="none", **keywords), range(4)))
    if is_deterministic:
        claim(
            {r.text for r in replies} == {first.text}, "replies change when several threads ask at one time"
        )


def _reply(model: Model, tools: tuple[ToolSpec, ...], **sampling: Any) -> Reply:
    reply = model.reply(_ASK, tools, **sampling)
    claim(isinstance(reply, Reply), f"`reply` must return a Reply, not {type(reply).__name__}")
    claim(reply.model, "`Reply.model` is empty: reports could not say who answered")
    usage = reply.usage
    claim(min(usage.prompt_tokens, usage.completion_tokens, usage.seconds) >= 0, "negative usage")
    if reply.tokens is not None and reply.tokens.log_probs:
        claim(
            len(reply.tokens.log_probs) == len(reply.tokens.completion_ids),
            "`tokens` has another number of log-probabilities than of completion tokens",
        )
        claim(max(reply.tokens.log_probs) <= 1e-4, "a log-probability is above 0")
    return reply


def _check_forced_call(reply: Reply) -> None:
    import jsonschema

    claim(reply.tool_calls, '`tool_choice="required"` gave no tool call')
    for call in reply.tool_calls:
        claim(call.name == _TOOL.name, f"the call names `{call.name}`, which was not offered")
        try:
            jsonschema.validate(call.arguments, _TOOL.parameters)
        except jsonschema.ValidationError as error:
            raise AssertionError(f"the call's arguments break the schema: {error.message}") from error
