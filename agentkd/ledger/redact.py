"""Take secrets out of text before it is stored for the first time; `[redacted:KIND]` stands in their place.

The core knows shapes, named values, check digits and random tokens (`secret.py`). A plugin that knows more
implements `find_secrets`; another function may be handed to `Ledger.open(redact=...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from agentkd.ledger.secret import NAMING_KEYS, PLACEHOLDER, SECRET_KEYS, Finding, find_secrets, may_hold
from agentkd.schema import REDACTED
from agentkd.schema.text import is_whole, whole

__all__ = ["Redact", "redact_json", "redact_secrets", "redactor"]

Redact = Callable[[str], str]

_LONG_NUMBER = 10**9  # below, a number is a count
_LONGEST_NAME = 64  # characters of a field's name that is worth a place among those known
_MOST_NAMES = 2048
_PLAIN: set[str] = set()  # names that tell of no secret: the same few are in every value that is stored
_SHORTEST = 8  # characters of a text that can hold a secret, such as a://b:c@


def redact_secrets(text: str) -> str:
    """Replace keys, tokens, passwords, card and account numbers by `[redacted:<kind>]`."""
    return _replaced(text, find_secrets(text)) if len(text) >= _SHORTEST and may_hold(text) else text


def redactor(finders: Iterable[Callable[[str], Iterable[Finding]]]) -> Redact:
    """Return a function that takes out what the core finds, and then what further finders do."""
    more = tuple(finders)
    if not more:
        return redact_secrets

    def redact(text: str) -> str:
        clean = redact_secrets(text)
        for find in more:
            clean = _replaced(clean, sorted(find(clean)))
        return clean

    return redact


def _replaced(text: str, findings: Iterable[Finding]) -> str:
    parts, at = [], 0
    for start, end, kind in findings:
        if start >= at and end > start:
            parts += [text[at:start], f"{REDACTED}{kind}]"]
            at = end
    return "".join([*parts, text[at:]]) if parts else text


def redact_json(data: Any, redact: Redact, *, keep: Collection[tuple[str, ...]] = ()) -> tuple[Any, bool]:
    """Return JSON data with every string redacted, keys included, and whether anything changed.

    Half of a surrogate pair, as a text holds that was cut within an emoji, becomes U+FFFD.
    What a field such as `password` or `Authorization` holds is taken out whatever it looks like.
    `keep` holds the paths of identifiers that must stay as they are, such as `("task", "id")`; those of the
    items of a list are the list's.
    """
    if redact is redact_secrets and isinstance(data, (Mapping, list, tuple)) and _is_clean(data):
        return data, False
    return _walked(data, redact, keep)


def _is_clean(data: Any) -> bool:
    """Whether JSON data surely holds nothing that is taken out: one look at all its texts instead of many.

    The texts are joined as they are: what JSON makes of a tab or of a wide space hides a secret beside it.
    """
    texts: set[str] = set()  # a memory's situation is often its key as well
    names: set[str] = set()
    waiting = [data]
    while waiting:
        item = waiting.pop()
        kind = type(item)  # of itself first: nearly all are, and an abstract class takes its time to ask
        if kind is str or isinstance(item, str):
            texts.add(item)
        elif kind is dict or isinstance(item, Mapping):
            names.update(item)
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
        elif isinstance(item, int) and abs(item) >= _LONG_NUMBER:
            texts.add(str(item))
    if any(map(_is_telling, names - _PLAIN)):
        return False
    joined = "\n".join(texts)
    return not may_hold(joined) and is_whole(joined)


def _is_telling(name: str) -> bool:
    """Whether the name of a field is that of a secret, or may hold one itself."""
    if SECRET_KEYS.match(name) or NAMING_KEYS.match(name) or may_hold(name):
        return True
    if len(name) <= _LONGEST_NAME and len(_PLAIN) < _MOST_NAMES:
        _PLAIN.add(name)
    return False


def _walked(data: Any, redact: Redact, keep: Collection[tuple[str, ...]] = ()) -> tuple[Any, bool]:
    if isinstance(data, str):
        clean = redact(whole(data))
        return clean, clean != data
    if isinstance(data, Mapping):
        return _redact_mapping(data, redact, keep)
    if isinstance(data, (list, tuple)):
        pairs = [_walked(item, redact, keep) for item in data]
        return type(data)(item for item, _ in pairs), any(changed for _, changed in pairs)
    if isinstance(data, int) and abs(data) >= _LONG_NUMBER:  # a card's number may be a number
        clean = redact(text := str(data))
        return (data, False) if clean == text else (clean, True)
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
        if SECRET_KEYS.match(key):
            new_value, value_changed = _held_by(key, value, redact)
        elif isinstance(value, str) and NAMING_KEYS.match(key):
            named = f"{key}: "
            new_value = redact(f"{named}{whole(value)}").removeprefix(named)
            value_changed = new_value != value
        else:
            new_value, value_changed = _walked(value, redact, deeper)
        new_key = redact(whole(key)) if len(key) >= _SHORTEST else whole(key)
        clean[new_key] = new_value
        has_changed = has_changed or value_changed or new_key != key
    return clean, has_changed


def _held_by(key: str, value: Any, redact: Redact) -> tuple[Any, bool]:
    """Take out every text and number under the name of a secret, and look at what is deeper as usual."""
    if isinstance(value, (list, tuple)):
        pairs = [_held_by(key, item, redact) for item in value]
        return type(value)(item for item, _ in pairs), any(changed for _, changed in pairs)
    if isinstance(value, Mapping) or value is None or isinstance(value, bool) or value == "":
        return _walked(value, redact)
    text = str(value)
    return _walked(value, redact) if _is_told(text) else (_of_secret(key, text, redact), True)


def _is_told(value: str) -> bool:
    return REDACTED in value or PLACEHOLDER.fullmatch(value) is not None


def _of_secret(key: str, value: str, redact: Redact) -> str:
    """Return what stands in the place of a named secret: a kind by shape where there is one, else by name."""
    clean = redact(value)
    kind = "password" if "pass" in key.lower() or "pwd" in key.lower() else "secret"
    return clean if clean != value else f"{REDACTED}{kind}]"
