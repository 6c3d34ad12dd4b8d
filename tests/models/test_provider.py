"""A student is a LiteLLM provider: completion, streaming, and both without blocking."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from agentkd.errors import ModelError, NotFoundError
from agentkd.models.litellm import LiteLLMModel, import_litellm
from agentkd.models.provider import PROVIDER, register
from agentkd.models.scripted import ScriptedModel
from agentkd.schema import Message, ToolCall, ToolSpec

NAME = "agentkd/student@1-abcd"
ASK = [{"role": "user", "content": "hi"}]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
]


@pytest.fixture
def student() -> ScriptedModel:
    return ScriptedModel(
        lambda messages, tools: (
            ToolCall(name="f", arguments={"a": 1}) if tools else messages[-1].content + "!"
        )
    )


@pytest.fixture
def litellm(student: ScriptedModel) -> Iterator[Any]:
    def resolve(name: str) -> ScriptedModel:
        if name != "student@1-abcd":
            raise NotFoundError(f"no checkpoint `{name}`")
        return student

    unregister = register(resolve)
    yield import_litellm()
    unregister()


def test_a_completion_is_answered_by_the_student(litellm: Any, student: ScriptedModel) -> None:
    response = litellm.completion(model=NAME, messages=ASK, max_tokens=7, temperature=0.5, seed=3)
    assert response.choices[0].message.content == "hi!"
    assert response.choices[0].finish_reason == "stop"
    assert (response.usage.prompt_tokens, response.usage.total_tokens) == (1, 2)
    assert student.calls[0].messages == (Message(role="user", content="hi"),)
    wanted = {"max_new_tokens": 7, "temperature": 0.5}
    assert wanted.items() <= student.calls[0].sampling.items()


def test_tool_calls_go_both_ways(litellm: Any, student: ScriptedModel) -> None:
    message = (
        litellm.completion(model=NAME, messages=ASK, tools=TOOLS, tool_choice="required").choices[0].message
    )
    assert message.content is None
    assert json.loads(message.tool_calls[0].function.arguments) == {"a": 1}
    assert student.calls[0].tools == (ToolSpec(name="f", parameters=TOOLS[0]["function"]["parameters"]),)  # type: ignore[index]
    assert student.calls[0].sampling["tool_choice"] == "required"
    turn = [
        *ASK,
        message.model_dump(),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "2"},
    ]
    litellm.completion(model=NAME, messages=turn)
    assert student.calls[1].messages[1].tool_calls[0].arguments == {"a": 1}
    assert student.calls[1].messages[2].tool_call_id == message.tool_calls[0].id


def test_streams_carry_text_and_calls(litellm: Any) -> None:
    chunks = list(litellm.completion(model=NAME, messages=ASK, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hi!"
    assert chunks[-1].choices[0].finish_reason == "stop"
    chunks = list(litellm.completion(model=NAME, messages=ASK, tools=TOOLS, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [("f", '{"a": 1}')]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_asynchronous_twins_answer_alike(litellm: Any) -> None:
    async def ask() -> tuple[str, str]:
        whole = await litellm.acompletion(model=NAME, messages=ASK)
        parts = [chunk async for chunk in await litellm.acompletion(model=NAME, messages=ASK, stream=True)]
        return whole.choices[0].message.content, "".join(p.choices[0].delta.content or "" for p in parts)

    assert asyncio.run(ask()) == ("hi!", "hi!")


def test_an_unknown_checkpoint_is_not_found(litellm: Any) -> None:
    with pytest.raises(litellm.NotFoundError, match="no open workspace has the checkpoint `nobody`"):
        litellm.completion(model="agentkd/nobody", messages=ASK)


def test_other_providers_stay_and_ours_is_added_once(litellm: Any) -> None:
    before = list(litellm.custom_provider_map)
    other = {"provider": "other", "custom_handler": before[-1]["custom_handler"]}
    litellm.custom_provider_map = [*before, other]
    try:
        newer = register(lambda name: ScriptedModel(["newer"]))
        assert litellm.custom_provider_map == [*before, other]
        assert sum(entry["provider"] == PROVIDER for entry in litellm.custom_provider_map) == 1
        assert litellm.completion(model=NAME, messages=ASK).choices[0].message.content == "newer"
        newer()
        assert litellm.completion(model=NAME, messages=ASK).choices[0].message.content == "hi!"
    finally:
        litellm.custom_provider_map = before


def test_our_own_model_reaches_it_too(litellm: Any) -> None:
    model = LiteLLMModel(NAME)
    assert model.reply([Message(role="user", content="hi")]).text == "hi!"
    reply = model.reply([Message(role="user", content="hi")], [ToolSpec(name="f")])
    assert reply.tool_calls[0].arguments == {"a": 1}
    with pytest.raises(ModelError, match="nobody"):
        LiteLLMModel("agentkd/nobody").reply([Message(role="user", content="hi")])
