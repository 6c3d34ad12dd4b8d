"""The scripted model recites, keeps what it was asked, and errs when its script is over."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentkd.errors import DataError, ModelError
from agentkd.models.scripted import ScriptedModel, ScriptedSettings, build
from agentkd.protocols import Model
from agentkd.schema import Message, Reply, ToolCall, ToolSpec

ASK = [Message(role="user", content="two words")]


def test_it_recites_in_order_and_remembers() -> None:
    call = ToolCall(name="f", arguments={"a": 1})
    model = ScriptedModel(["hello", call, Reply(text="whole", finish_reason="length")], name="actor")
    assert isinstance(model, Model)
    first = model.reply(ASK, [ToolSpec(name="f")], tool_choice="auto", temperature=0.5)
    assert (first.text, first.model, first.finish_reason) == ("hello", "actor", "stop")
    assert (first.usage.prompt_tokens, first.usage.completion_tokens, first.usage.usd) == (2, 1, 0.0)
    second = model.reply(ASK)
    assert (second.tool_calls, second.finish_reason) == ((call,), "tool_calls")
    assert second.text == '{"name": "f", "arguments": {"a": 1}}'
    assert model.reply(ASK).finish_reason == "length"
    assert model.calls[0].sampling == {"tool_choice": "auto", "temperature": 0.5}
    assert model.calls[0].tools[0].name == "f"
    with pytest.raises(ModelError, match="has only 3 answers"):
        model.reply(ASK)


def test_errors_are_raised_and_scripts_may_repeat() -> None:
    model = ScriptedModel([ModelError("down"), "up"], repeat=True)
    for _ in range(2):
        with pytest.raises(ModelError, match="down"):
            model.reply(ASK)
        assert model.reply(ASK).text == "up"


def test_a_function_may_answer() -> None:
    model = ScriptedModel(lambda messages, tools: f"{messages[-1].content} {len(tools)}")
    assert model.reply(ASK, [ToolSpec(name="f")]).text == "two words 1"


def test_every_answer_is_given_once_to_many_threads() -> None:
    model = ScriptedModel([str(i) for i in range(64)])
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda _: model.reply(ASK).text, range(64)))
    assert sorted(said, key=int) == [str(i) for i in range(64)]


def test_the_component_reads_calls_from_json() -> None:
    settings = ScriptedSettings(script="demo", answers=('{"name": "f", "arguments": {}}', '{"a": 1}', "x"))
    model = build(settings, kit=None)
    assert model.name == "demo"
    assert model.reply(ASK).tool_calls == (ToolCall(name="f"),)
    assert [model.reply(ASK).text for _ in range(2)] == ['{"a": 1}', "x"]
    assert model.reply(ASK).tool_calls
    assert build(ScriptedSettings(), kit=None).reply(ASK).text == "two words"


def test_recorded_replies_are_found_by_what_was_asked(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    lines = [
        {"when": ["two words", "again"], "say": "twice"},
        {"when": "two words", "say": {"lessons": []}},
        {"when": ["call"], "say": {"name": "f", "arguments": {"a": 1}}},
    ]
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    model = build(ScriptedSettings(replies=str(file)), None)
    assert model.reply(ASK).text == '{"lessons": []}'
    assert model.reply([*ASK, Message(role="user", content="again")]).text == "twice"
    assert model.reply(ASK).text == '{"lessons": []}'  # in any order, as often as asked
    assert model.reply([Message(role="user", content="call")]).tool_calls[0].arguments == {"a": 1}
    with pytest.raises(ModelError, match="no reply is recorded"):
        model.reply([Message(role="user", content="something else")])


@pytest.mark.parametrize("line", ["no JSON", '{"say": "x"}', '{"when": 3, "say": "x"}', "[]"])
def test_a_broken_line_of_recorded_replies_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "replies.jsonl"
    file.write_text('{"when": "a", "say": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2"):
        build(ScriptedSettings(replies=str(file)), None)
    with pytest.raises(DataError, match="cannot be read"):
        build(ScriptedSettings(replies=str(tmp_path / "none.jsonl")), None)
