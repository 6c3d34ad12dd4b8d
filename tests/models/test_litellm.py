"""Remote models: a real local server speaks chat completions; faults come back in one line with a hint."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentkd.config import ModelSettings
from agentkd.errors import BudgetError, CeilingError, ModelError
from agentkd.ledger import Ledger
from agentkd.models.booking import Booked, Meter, Priced
from agentkd.models.litellm import LiteLLMModel, LiteLLMSettings, build, import_litellm
from agentkd.models.wire import mend_json, to_wire, wire_names
from agentkd.protocols import Model
from agentkd.schema import Message, ToolCall, ToolSpec
from agentkd.stop import StopFile

ASK = [Message(role="user", content="hi")]
TOOL = ToolSpec(name="shop.find", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})


def said(text: str = "hello", **message: Any) -> dict[str, Any]:
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "tiny",
        "choices": [{"index": 0, "finish_reason": "stop",
                     "message": {"role": "assistant", "content": text, **message}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12,
                  "prompt_tokens_details": {"cached_tokens": 4}},
    }  # fmt: skip


def called(arguments: str, name: str = "shop_find") -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return said("", tool_calls=[call])


class Server:
    """A chat-completions server that plays a list of (status, body, headers) and keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any, dict[str, str]]] = []
        self.requests: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(json.loads(body))
                status, answer, headers = outer.answers.pop(0) if outer.answers else (200, said(), {})
                data = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def plays(self, *answers: Any) -> None:
        self.answers = [a if isinstance(a, tuple) else (200, a, {}) for a in answers]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def model(server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> LiteLLMModel:
    monkeypatch.setenv("SHOP_KEY", "sk-test")
    options = LiteLLMSettings(api_base=server.url, api_key_env="SHOP_KEY", log_probs=False)
    return LiteLLMModel("openai/tiny", ModelSettings(retries=2), options, sleep=waits.append)


def test_a_reply_has_text_usage_and_an_unknown_price(model: LiteLLMModel, server: Server) -> None:
    assert isinstance(model, Model)
    assert isinstance(model, Priced)
    reply = model.reply(ASK, purpose="run")
    assert (reply.text, reply.model, reply.finish_reason) == ("hello", "openai/tiny", "stop")
    used = reply.usage
    assert (used.prompt_tokens, used.completion_tokens, used.cached_tokens, used.usd) == (9, 3, 4, None)
    assert used.seconds > 0
    request = server.requests[0]
    assert request["messages"] == [{"role": "user", "content": "hi"}]
    assert (request["max_tokens"], request["temperature"]) == (128, 0.0)
    assert "tools" not in request
    assert "purpose" not in request


def test_a_tool_call_goes_out_and_comes_back(model: LiteLLMModel, server: Server) -> None:
    server.plays(called('{"a": 1}'))
    reply = model.reply(ASK, [TOOL], tool_choice="required")
    assert reply.tool_calls == (ToolCall(name="shop.find", arguments={"a": 1}, id="c1"),)
    assert reply.finish_reason == "tool_calls"
    request = server.requests[0]
    assert request["tools"][0]["function"]["name"] == "shop_find"
    assert request["tool_choice"] == "required"
    turn = [*ASK, reply.to_message(), Message(role="tool", content="2", tool_call_id="c1")]
    model.reply(turn, [TOOL])
    sent = server.requests[1]["messages"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "shop_find", "arguments": '{"a": 1}'}
    assert sent[2] == {"role": "tool", "tool_call_id": "c1", "content": "2"}


def test_broken_arguments_are_mended_or_asked_for_again_once(model: LiteLLMModel, server: Server) -> None:
    server.plays(called("```json\n{'a': 1,}\n```"))
    assert model.reply(ASK, [TOOL]).tool_calls[0].arguments == {"a": 1}
    server.plays(called("a is one"), called('{"a": 1}'))
    reply = model.reply(ASK, [TOOL])
    assert reply.tool_calls[0].arguments == {"a": 1}
    assert reply.usage.prompt_tokens == 18
    assert "are no JSON object: a is one" in server.requests[-1]["messages"][-1]["content"]
    server.plays(called("a is one"), called("[1]"))
    with pytest.raises(ModelError, match="called `shop_find` with arguments that are no JSON, twice"):
        model.reply(ASK, [TOOL])


@pytest.mark.parametrize("cap", ["max_calls", "max_tokens"])
def test_every_request_of_a_call_is_counted_and_held_back(
    model: LiteLLMModel, server: Server, tmp_path: Path, cap: str
) -> None:
    server.plays(called("a is one"), called('{"a": 1}'))
    most = model.estimate(ASK, [TOOL], 64)
    one = {"max_calls": 1, "max_tokens": most.prompt_tokens + most.completion_tokens}
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        meter = Meter(**{cap: one[cap]})
        with pytest.raises(BudgetError):
            Booked(model, ledger, ModelSettings(), meter=meter).reply(ASK, [TOOL], max_new_tokens=64)
        assert len(server.requests) == 1, "the question that would be asked again is a second request"
        assert (meter.booked_tokens, ledger.calls.total().prompt_tokens) == (12, 9), "the first was paid for"
        assert meter.tokens == (12 if cap == "max_tokens" else 0), "what was held back is free again"


def test_further_tries_are_counted_and_end_where_somebody_asks_to_stop(
    model: LiteLLMModel, server: Server, tmp_path: Path, waits: list[float]
) -> None:
    busy = (503, {"error": {"message": "slow down"}}, {})
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        server.plays(busy, busy, said())
        meter = Meter(max_calls=4)
        Booked(model, ledger, ModelSettings(), meter=meter).reply(ASK)
        assert meter.calls == 3
        server.plays(busy, busy, said())
        with pytest.raises(BudgetError, match="4 of 4 calls are made"):
            Booked(model, ledger, ModelSettings(), meter=meter).reply(ASK)
        stop = StopFile(tmp_path)
        model._sleep = lambda seconds: stop.set("")
        server.requests.clear()
        server.plays(busy, said())
        with pytest.raises(CeilingError):
            Booked(model, ledger, ModelSettings(), check=stop.check).reply(ASK)
        assert len(server.requests) == 1


def test_a_schema_is_asked_for_as_response_format(model: LiteLLMModel, server: Server) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    server.plays(said('{"x": 1}'))
    assert model.reply(ASK, schema=schema, max_new_tokens=5, temperature=0.7, seed=1).text == '{"x": 1}'
    request = server.requests[0]
    assert request["response_format"]["json_schema"]["schema"] == schema
    assert (request["max_tokens"], request["temperature"], request["seed"]) == (5, 0.7, 1)


def test_a_parameter_that_the_model_refuses_is_left_out(server: Server) -> None:
    options = LiteLLMSettings(api_base=server.url, extra={"api_key": "x"})
    assert LiteLLMModel("openai/o3-mini", options=options).reply(ASK).text == "hello"
    (request,) = server.requests
    assert "temperature" not in request


def test_a_schema_that_the_provider_cannot_enforce_is_put_into_words(server: Server) -> None:
    options = LiteLLMSettings(api_base=server.url, extra={"api_key": "x"})
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    LiteLLMModel("featherless_ai/tiny", options=options).reply(ASK, schema=schema)
    (request,) = server.requests
    assert "response_format" not in request
    assert json.dumps(schema) in request["messages"][-1]["content"]


def test_log_probs_are_kept_where_they_are_returned(server: Server, model: LiteLLMModel) -> None:
    answer = said()
    answer["choices"][0]["logprobs"] = {
        "content": [{"token": "hel", "logprob": -0.5, "bytes": None, "top_logprobs": []},
                    {"token": "lo", "logprob": -0.25, "bytes": None, "top_logprobs": []}]
    }  # fmt: skip
    server.plays(answer)
    tokens = model.reply(ASK).tokens
    assert tokens is not None
    assert tokens.log_probs == (-0.5, -0.25)


def test_alternatives_stay_with_their_token(server: Server, model: LiteLLMModel) -> None:
    """A token without any must not shift those of the later ones."""
    answer = said()
    bare = {"token": "hel", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    full = {"token": "lo", "logprob": -0.25, "bytes": None}
    full["top_logprobs"] = [{"token": "lo", "logprob": -0.25, "bytes": None}]
    answer["choices"][0]["logprobs"] = {"content": [bare, full]}
    server.plays(answer)
    tokens = model.reply(ASK).tokens
    assert tokens is not None
    assert tokens.top == ((), (("lo", -0.25),))


def test_a_server_that_knows_no_added_tokens_scores_a_text_all_the_same(server: Server) -> None:
    refusal = {"error": {"message": "Unrecognized request argument supplied: add_special_tokens"}}
    logprobs = {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": [None, {}, {}],
    }
    choice = {"index": 0, "finish_reason": "length", "text": "abc", "logprobs": logprobs}
    scored = {**said(), "object": "text_completion", "choices": [choice]}
    server.plays((400, refusal, {}), scored)
    options = LiteLLMSettings(api_base=server.url, extra={"api_key": "x"})
    reply = LiteLLMModel("text-completion-openai/tiny", options=options).score("a", "b", top_k=1)
    assert [request.get("add_special_tokens") for request in server.requests] == [False, None]
    assert reply.tokens is not None
    assert (reply.tokens.pieces, reply.tokens.log_probs) == (("b",), (-1.0,))


def test_a_busy_server_is_asked_again_when_it_says_so(
    model: LiteLLMModel, server: Server, waits: list[float]
) -> None:
    busy = {"error": {"message": "slow down", "type": "rate_limit"}}
    server.plays((429, busy, {"Retry-After": "7"}), (503, busy, {}), said("at last"))
    assert model.reply(ASK).text == "at last"
    assert len(server.requests) == 3
    assert waits[0] == 7.0
    assert 1.5 <= waits[1] <= 2.5


def test_a_server_that_stays_busy_is_one_line(model: LiteLLMModel, server: Server) -> None:
    server.plays(*[(429, {"error": {"message": "slow\ndown"}}, {})] * 9)
    with pytest.raises(ModelError) as caught:
        model.reply(ASK)
    assert len(server.requests) == 3
    assert "`openai/tiny` is over its rate limit" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.context["kind"] == "busy"


@pytest.mark.parametrize(
    ("status", "words", "hint"),
    [
        (401, "refused the key", "check the key in `SHOP_KEY`"),
        (404, "is unknown", "provider/model"),
        (400, "refused the request", "see what the provider says"),
    ],
)
def test_lasting_faults_are_not_tried_again(
    model: LiteLLMModel, server: Server, waits: list[float], status: int, words: str, hint: str
) -> None:
    server.plays((status, {"error": {"message": "no such thing"}}, {}))
    with pytest.raises(ModelError) as caught:
        model.reply(ASK)
    assert words in str(caught.value)
    assert "no such thing" in str(caught.value)
    assert hint in caught.value.hint
    assert (len(server.requests), waits) == (1, [])


def test_an_unreachable_server_is_named_in_one_line(server: Server, waits: list[float]) -> None:
    options = LiteLLMSettings(api_base="http://127.0.0.1:9/v1", extra={"api_key": "x"})
    model = LiteLLMModel("openai/tiny", ModelSettings(retries=1), options, sleep=waits.append)
    with pytest.raises(ModelError) as caught:
        model.reply(ASK)
    text = str(caught.value)
    assert text.startswith("model `openai/tiny` at `http://127.0.0.1:9/v1` cannot be reached")
    assert "is the server running" in text
    assert "\n" not in text
    assert len(waits) == 1
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    ("name", "variable"),
    [("openai/gpt-4o-mini", "OPENAI_API_KEY"), ("anthropic/claude-3-5-haiku-latest", "ANTHROPIC_API_KEY")],
)
def test_a_missing_key_is_named(
    name: str, variable: str, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ModelError) as caught:
        LiteLLMModel(name, sleep=waits.append).reply(ASK)
    assert f"export {variable}=..." in caught.value.hint
    assert waits == []


def test_a_named_key_that_is_not_set_is_said_before_any_call(server: Server) -> None:
    options = LiteLLMSettings(api_base=server.url, api_key_env="NOT_SET_ANYWHERE")
    with pytest.raises(ModelError, match="`NOT_SET_ANYWHERE` is not set"):
        LiteLLMModel("openai/tiny", options=options).reply(ASK)
    assert server.requests == []


def test_a_name_without_a_provider_is_explained() -> None:
    with pytest.raises(ModelError, match="model `nonsense` is unknown") as caught:
        LiteLLMModel("nonsense").reply(ASK)
    assert "openai/gpt-5-mini" in caught.value.hint


def test_a_known_model_has_a_price_before_and_after() -> None:
    options = LiteLLMSettings(extra={"mock_response": "hello", "api_key": "x"})
    model = LiteLLMModel("openai/gpt-4o-mini", options=options)
    before = model.estimate(ASK, max_new_tokens=100)
    assert before.completion_tokens == 100
    assert before.usd is not None
    assert before.usd > 0
    after = model.reply(ASK).usage
    assert after.usd is not None
    assert 0 < after.usd < before.usd
    assert LiteLLMModel("openai/tiny").estimate(ASK).usd is None


def test_the_component_takes_the_workspaces_limits() -> None:
    class Kit:
        class settings:  # noqa: N801
            models = ModelSettings(retries=5)

    assert build(LiteLLMSettings(model="openai/x"), Kit()).name == "openai/x"


def test_nothing_is_looked_up_on_the_network() -> None:
    import_litellm()
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"


def test_local_calls_without_ids_are_paired_with_their_results() -> None:
    call = ToolCall(name="f", arguments={"a": 1})
    wire = to_wire(
        [
            Message(role="assistant", content='{"name": "f", "arguments": {"a": 1}}', tool_calls=(call,)),
            Message(role="tool", content="2"),
            Message(role="assistant", content="Let me see.", tool_calls=(call, call)),
            Message(role="tool", content="3"),
            Message(role="tool", content="4"),
        ]
    )
    assert wire[0]["content"] is None
    assert wire[2]["content"] == "Let me see."
    ids = [call["id"] for message in wire for call in message.get("tool_calls", ())]
    assert ids == [message["tool_call_id"] for message in wire if message["role"] == "tool"]
    assert len(set(ids)) == 3


def test_wire_names_are_plain_and_different() -> None:
    tools = [ToolSpec(name="a.b"), ToolSpec(name="a_b"), ToolSpec(name="x" * 80)]
    assert wire_names(tools) == {"a.b": "a_b", "a_b": "a_b_2", "x" * 80: "x" * 60}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@example({",}": ", ]"})
@given(st.dictionaries(st.text(), json_values))
def test_valid_json_is_never_changed(value: dict[str, Any]) -> None:
    assert mend_json(json.dumps(value)) == value
    assert mend_json(f"```json\n{json.dumps(value)}\n```") == value
    assert mend_json(f'{{"own": {json.dumps(value)}, }}') == {"own": value}, (
        "a comma within a text is no slip"
    )


@given(st.dictionaries(st.text("abc", min_size=1), st.lists(st.integers(0, 9), min_size=1), min_size=1))
def test_a_missing_end_is_added(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    assert mend_json(text[:-1]) == value
    assert mend_json(text[:-2]) == value


@given(st.text())
def test_no_text_breaks_the_mender(text: str) -> None:
    with suppress(ValueError):
        mend_json(text)
