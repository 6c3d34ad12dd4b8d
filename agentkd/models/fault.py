"""What went wrong at a provider, in one line with the next thing to do."""

from __future__ import annotations

from typing import Any

from agentkd.errors import ModelError

__all__ = ["PASSING", "as_model_error", "is_unsupported"]

PASSING = frozenset({"busy", "timeout", "server", "connection"})
"""Kinds of fault that may be gone a moment later."""

_KINDS = (
    ("Timeout", "timeout"),
    ("AuthenticationError", "key"),
    ("PermissionDeniedError", "key"),
    ("RateLimitError", "busy"),
    ("ContextWindowExceededError", "length"),
    ("NotFoundError", "name"),
    ("BadRequestError", "request"),
    ("UnprocessableEntityError", "request"),
    ("APIConnectionError", "connection"),
    ("ServiceUnavailableError", "server"),
    ("BadGatewayError", "server"),
    ("InternalServerError", "server"),
)


def as_model_error(
    litellm: Any, error: Exception, model: str, api_base: str = "", api_key_env: str = ""
) -> ModelError:
    """Return a ModelError whose context has the `kind` of fault; LiteLLM's own text is cut to a line."""
    said = _one_line(error)
    kind = next((k for name, k in _KINDS if isinstance(error, _class(litellm, name))), "other")
    low = said.lower()
    # Some faults come under another class: a missing key as a server error, a refused connection too.
    if "missing" in low and ("api key" in low or "credentials" in low or "api_key" in low):
        kind = "key"
    elif kind in ("server", "other") and ("connection error" in low or "connection refused" in low):
        kind = "connection"
    elif "llm provider not provided" in low:
        kind = "name"
    what, hint = _words(litellm, kind, model, api_base, api_key_env)
    return ModelError(f"{what}: {said}" if said else what, hint=hint, kind=kind, model=model)


def is_unsupported(litellm: Any, error: Exception) -> bool:
    """Whether the provider does not know one of the parameters."""
    return isinstance(error, _class(litellm, "UnsupportedParamsError"))


def _words(litellm: Any, kind: str, model: str, api_base: str, api_key_env: str) -> tuple[str, str]:
    place = f" at `{api_base}`" if api_base else ""
    hints = {
        "key": (f"model `{model}` refused the key", _key_hint(litellm, model, api_key_env)),
        "busy": (f"model `{model}` is over its rate limit", "lower `[run] workers` or wait a while"),
        "timeout": (f"model `{model}`{place} did not answer in time", "raise `[models] timeout_seconds`"),
        "connection": (
            f"model `{model}`{place} cannot be reached",
            "is the server running and the address right? set `api_base` in `[model.litellm]`",
        ),
        "server": (f"model `{model}`{place} failed", "try again later"),
        "length": (
            f"the prompt is too long for model `{model}`",
            "lower `[memory] k` or `max_rendered_chars`",
        ),
        "name": (
            f"model `{model}` is unknown",
            "write `provider/model` as LiteLLM does, such as `openai/gpt-5-mini`",
        ),
        "request": (f"model `{model}`{place} refused the request", "see what the provider says"),
    }
    return hints.get(kind, (f"the call of model `{model}`{place} failed", "see what the provider says"))


def _key_hint(litellm: Any, model: str, api_key_env: str) -> str:
    if api_key_env:
        return f"check the key in `{api_key_env}`"
    try:
        missing = litellm.validate_environment(model)["missing_keys"]
    except Exception:  # only a hint
        missing = []
    if missing:
        return f"export {missing[0]}=... or name another variable with `api_key_env` in `[model.litellm]`"
    return "check the key; `api_key_env` in `[model.litellm]` names another variable"


def _one_line(error: Exception) -> str:
    text = str(getattr(error, "message", "") or error).strip()
    line = text.partition("\n")[0]
    while True:
        head, colon, rest = line.partition(": ")
        if not colon or " " in head or not head.removeprefix("litellm.").isidentifier():
            break
        line = rest
    return line[:300].strip()


def _class(litellm: Any, name: str) -> type[Exception]:
    found = getattr(litellm, name, None) or getattr(litellm.exceptions, name, None)
    return found if isinstance(found, type) else _Never


class _Never(Exception):
    """Stands for a class that this version of LiteLLM lacks."""
