"""Take secrets out of text before it is stored for the first time.

A modest set of well-known shapes with few false alarms; every pattern runs in linear time. Hand
another function to `Ledger.open(redact=...)` where more is known about what may not be kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

__all__ = ["Redact", "is_clean", "redact_json", "redact_secrets"]

Redact = Callable[[str], str]

_PATTERNS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    (
        "private-key",
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:(?!-----END).)*(?:-----END [A-Z0-9 ]{0,40}-----)?",
            re.DOTALL,
        ),
        "",
    ),
    ("url-password", re.compile(r"(?<=://)([^\s/:@]{0,128}:)[^\s/@]{1,256}(?=@)"), r"\1"),
    ("api-key", re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"), ""),
    ("aws-key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), ""),
    ("github-token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"), ""),
    ("google-key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}"), ""),
    ("slack-token", re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"), ""),
    ("hub-token", re.compile(r"\bhf_[A-Za-z0-9]{30,}"), ""),
    ("jwt", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"), ""),
    ("bearer-token", re.compile(r"\b([Bb]earer\s{1,4})[A-Za-z0-9._~+/=-]{16,}"), r"\1"),
)

_SIGNS = re.compile(r"-----BEGIN|://|sk-|AKIA|ASIA|gh[pousr]_|github_pat_|AIza|xox|hf_|eyJ|earer")


def redact_secrets(text: str) -> str:
    """Replace keys, tokens, private keys and passwords in URLs by `[redacted:<kind>]`."""
    if _SIGNS.search(text) is None:
        return text
    for kind, pattern, kept in _PATTERNS:
        text = pattern.sub(f"{kept}[redacted:{kind}]", text)
    return text


def is_clean(rendered: str, redact: Redact) -> bool:
    """Whether rendered JSON surely holds nothing that `redact` takes out: one look instead of many."""
    return redact is redact_secrets and _SIGNS.search(rendered) is None


def redact_json(data: Any, redact: Redact, *, keep: Collection[tuple[str, ...]] = ()) -> tuple[Any, bool]:
    """Return JSON data with every string redacted, keys included, and whether anything changed.

    `keep` holds the paths of identifiers that must stay as they are, such as `("task", "id")`.
    """
    if isinstance(data, str):
        clean = redact(data)
        return clean, clean != data
    if isinstance(data, Mapping):
        return _redact_mapping(data, redact, keep)
    if isinstance(data, (list, tuple)):
        pairs = [redact_json(item, redact) for item in data]
        return [item for item, _ in pairs], any(changed for _, changed in pairs)
    return data, False


def _redact_mapping(
    data: Mapping[str, Any], redact: Redact, keep: Collection[tuple[str, ...]]
) -> tuple[dict[str, Any], bool]:
    clean: dict[str, Any] = {}
    has_changed = False
    for key, value in data.items():
        if (key,) in keep:
            clean[key] = value
            continue
        deeper = [path[1:] for path in keep if path[0] == key]
        new_value, value_changed = redact_json(value, redact, keep=deeper)
        new_key = redact(key)
        clean[new_key] = new_value
        has_changed = has_changed or value_changed or new_key != key
    return clean, has_changed
