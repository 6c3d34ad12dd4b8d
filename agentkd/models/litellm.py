"""Any provider's chat model through LiteLLM: `openai/gpt-5-mini`, `anthropic/...`, `ollama/...`.

Only `completion`, `cost_per_token` and `completion_cost` of LiteLLM are touched. It is imported on the
first call, told before to stay off the network and to report nothing home.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from agentkd.config import ModelSettings
from agentkd.errors import AgentkdError, ModelError
from agentkd.models.booking import begin_again
from agentkd.models.fault import PASSING, as_model_error, is_unsupported
from agentkd.models.wire import (
    BadArguments,
    ask_again,
    read_reply,
    read_scores,
    schema_note,
    to_wire,
    tools_to_wire,
    wire_names,
)
from agentkd.schema import Message, Reply, ToolSpec, Usage, Value

__all__ = ["LiteLLMModel", "LiteLLMSettings", "build", "import_litellm"]

_LOCK = threading.Lock()
_ADDS = "add_special_tokens"  # what vLLM and its like call it
CHARS_PER_TOKEN = 2.5
"""Characters per token, taken low so that an estimate is a ceiling for most texts."""


class LiteLLMSettings(Value):
    """`[model.litellm]`: how a provider is reached."""

    model: str = ""
    """LiteLLM's name of the model, `provider/model`; a model string of `[roles]` sets it."""
    api_base: str = ""
    """URL of the server; empty takes the provider's own."""
    api_key_env: str = ""
    """Environment variable that holds the key; empty takes the provider's usual one."""
    log_probs: bool = False
    """Whether to ask for the log-probabilities of the reply."""
    backoff_seconds: float = 1.0
    """Wait before the first further try; doubled after each, up to 30 s, unless the server names a time."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further keywords of `litellm.completion`, such as `reasoning_effort`."""


class LiteLLMModel:
    """A remote model; safe to use from several threads. It reads tools from the request, not the prompt."""

    reads_tools = True

    def __init__(
        self,
        model: str,
        settings: ModelSettings | None = None,
        options: LiteLLMSettings | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Name a model; nothing is imported or reached yet."""
        self.name = model
        self._settings = settings or ModelSettings()
        self._options = options or LiteLLMSettings()
        self._sleep = sleep

    def reply(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), **sampling: Any) -> Reply:
        """Answer a conversation. Passing faults are tried again; raises ModelError in one line with a hint.

        A call whose arguments are no JSON is mended where that is plain, else the model is asked once more.
        """
        request = self._request(messages, tools, sampling)
        spent: list[Usage] = []
        started = time.monotonic()

        def cost() -> Usage:
            return sum(spent, Usage(seconds=time.monotonic() - started, usd=0.0))

        try:
            reply = self._asked(request, wire_names(tools), spent)
        except AgentkdError as error:
            if spent:
                error.context.setdefault("usage", cost())
            raise
        return reply.model_copy(update={"usage": cost()})

    def estimate(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), max_new_tokens: int | None = None
    ) -> Usage:
        """Return the most that one call is expected to cost; `usd` is None where the price is unknown."""
        wire = [to_wire(messages), tools_to_wire(tools)]
        prompt = int(len(str(wire)) / CHARS_PER_TOKEN) + 1
        completion = max_new_tokens or self._settings.max_new_tokens
        return Usage(prompt_tokens=prompt, completion_tokens=completion, usd=self._price(prompt, completion))

    def score(self, prompt: str, completion: str, *, top_k: int) -> Reply:
        """Return what the model thinks of a given text, as the tokens of a reply; None there if it is silent.

        Needs a server of text completions that echoes its prompt with log-probabilities, as vLLM's does. It
        is asked to add no tokens: the prompt has those of its template. See `read_scores` for one that does.
        """
        litellm = import_litellm()
        started = time.monotonic()
        request = self._request((), (), {"max_new_tokens": 1, "temperature": 0.0})
        del request["messages"]
        request |= {"prompt": prompt + completion, "echo": True, "logprobs": top_k}
        request["extra_body"] = {**request.get("extra_body", {}), _ADDS: False}
        response = self._complete(litellm, request, litellm.text_completion, ())
        usage = self._usage(litellm, response).model_copy(update={"seconds": time.monotonic() - started})
        trace = read_scores(response, prompt, completion)
        return Reply(text=completion, model=self.name, usage=usage, tokens=trace)

    def _asked(self, request: dict[str, Any], names: Mapping[str, str], spent: list[Usage]) -> Reply:
        """Ask, and once more where the arguments are no JSON; put what each answer cost into the list."""
        litellm = import_litellm()
        for is_last in (False, True):
            response = self._complete(litellm, request, litellm.completion, spent)
            spent.append(self._usage(litellm, response))
            try:
                return read_reply(response, self.name, names)
            except BadArguments as bad:
                if is_last:
                    raise ModelError(
                        f"model `{self.name}` called `{bad.tool}` with arguments that are no JSON, twice",
                        hint="take a model that knows tool calls, or a simpler tool",
                    ) from bad
                request["messages"] = [*request["messages"], *ask_again(bad)]
                begin_again(sum(spent, Usage(usd=0.0)))
        raise AssertionError("unreachable")

    def _price(self, prompt: int, completion: int) -> float | None:
        litellm = import_litellm()
        try:
            parts = litellm.cost_per_token(
                model=self.name, prompt_tokens=prompt, completion_tokens=completion
            )
        except Exception:  # LiteLLM raises many kinds for a model that its price list lacks
            return None
        return float(sum(parts))

    def _request(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: Mapping[str, Any]
    ) -> dict[str, Any]:
        options, settings = self._options, self._settings
        request: dict[str, Any] = {
            "model": self.name,
            "messages": to_wire(messages, wire_names(tools)),
            "max_tokens": sampling.get("max_new_tokens") or settings.max_new_tokens,
            "temperature": sampling.get("temperature", settings.temperature),
            "timeout": settings.timeout_seconds,
            "num_retries": 0,
            "max_retries": 0,
            **options.extra,
        }
        if tools:
            request["tools"] = tools_to_wire(tools)
            request["tool_choice"] = sampling.get("tool_choice", "auto")
        if sampling.get("seed") is not None:
            request["seed"] = sampling["seed"]
        if sampling.get("schema") is not None:
            wanted = {"name": "answer", "schema": sampling["schema"], "strict": False}
            request["response_format"] = {"type": "json_schema", "json_schema": wanted}
        if options.log_probs or sampling.get("top_log_probs"):
            request["logprobs"] = True
        if sampling.get("top_log_probs"):
            request["top_logprobs"] = sampling["top_log_probs"]
        if options.api_base:
            request["api_base"] = options.api_base
        if options.api_key_env:
            request["api_key"] = self._key(options.api_key_env)
        return request

    def _key(self, variable: str) -> str:
        key = os.environ.get(variable, "")
        if not key:
            raise ModelError(
                f"model `{self.name}` needs a key, but `{variable}` is not set", hint=f"export {variable}=..."
            )
        return key

    def _complete(
        self, litellm: Any, request: dict[str, Any], call: Callable[..., Any], spent: Sequence[Usage]
    ) -> Any:
        """Make one request with its further tries; what a provider does not know is asked without.

        Each further one counts, beside what the answers before it have `spent`.
        """
        tries = 0
        while True:
            try:
                return call(**request)
            except Exception as error:
                said = str(error)
                if (is_unsupported(litellm, error) or _ADDS in said) and _simplify(request, said):
                    begin_again(sum(spent, Usage(usd=0.0)))
                    continue
                fault = as_model_error(
                    litellm, error, self.name, self._options.api_base, self._options.api_key_env
                )
                if fault.context.get("kind") not in PASSING or tries >= self._settings.retries:
                    raise fault from error
                self._sleep(_wait_seconds(error, tries, self._options.backoff_seconds))
                tries += 1
                begin_again(sum(spent, Usage(usd=0.0)))

    def _usage(self, litellm: Any, response: Any) -> Usage:
        usage = getattr(response, "usage", None)
        details = getattr(usage, "prompt_tokens_details", None)
        try:
            usd: float | None = float(litellm.completion_cost(completion_response=response, model=self.name))
        except Exception:  # a model that the price list lacks
            usd = None
        return Usage(
            prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
            completion_tokens=getattr(usage, "completion_tokens", 0) or 0,
            cached_tokens=getattr(details, "cached_tokens", 0) or 0,
            usd=usd,
        )


def build(settings: LiteLLMSettings, kit: Any) -> LiteLLMModel:
    """Make the component `litellm`."""
    return LiteLLMModel(settings.model, kit.settings.models, settings)


def import_litellm() -> Any:
    """Import LiteLLM without its look at the network, its telemetry and its printing."""
    with _LOCK:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm

        litellm.telemetry = False
        litellm.suppress_debug_info = True
        return litellm


def _simplify(request: dict[str, Any], said: str) -> bool:
    """Take out the parameter that a provider refuses by name; False where it names none of ours.

    A JSON Schema that it cannot enforce is put into words.
    """
    body = request.get("extra_body", {})
    if _ADDS in body and _ADDS in said:
        request["extra_body"] = {key: value for key, value in body.items() if key != _ADDS}
        return True
    for name in ("top_logprobs", "logprobs", "seed", "temperature", "tool_choice", "response_format"):
        if name in request and name in said:
            value = request.pop(name)
            if name == "response_format":
                request["messages"] = [*request["messages"], schema_note(value["json_schema"]["schema"])]
            return True
    return False


def _wait_seconds(error: Exception, tries: int, first: float) -> float:
    """Return the time that the server names, else an exponential one that keeps callers apart."""
    for named in _headers(error):
        try:
            return min(60.0, max(0.0, float(named["retry-after"])))
        except (KeyError, ValueError, TypeError):
            continue
    return float(min(30.0, first * 2**tries) * random.uniform(0.75, 1.25))


def _headers(error: BaseException | None) -> Iterator[Mapping[str, str]]:
    """Yield the response headers of an error and of those that it came from; LiteLLM hides them there."""
    for _ in range(6):
        if error is None:
            return
        for holder in (error, getattr(error, "response", None)):
            for name in ("headers", "litellm_response_headers"):
                found = getattr(holder, name, None)
                if found:
                    yield found
        error = error.__cause__ or error.__context__
