"""Text that can be written down: halves of surrogate pairs, as a cut emoji leaves them, become U+FFFD."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator

__all__ = ["JsonObject", "JsonValue", "is_whole", "mended", "whole"]


def is_whole(text: str) -> bool:
    """Whether a text holds no half of a surrogate pair, which no model, terminal or file can be given."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole(text: str) -> str:
    """Return a text with U+FFFD where half of a surrogate pair stood."""
    return text if is_whole(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def mended(data: Any) -> Any:
    """Return JSON data whose texts are whole, names of fields included."""
    if isinstance(data, str):
        return whole(data)
    if isinstance(data, list):
        return [mended(item) for item in data]
    if isinstance(data, dict):
        return {whole(key) if isinstance(key, str) else key: mended(value) for key, value in data.items()}
    return data


JsonValue = Annotated[Any, AfterValidator(mended)]
JsonObject = Annotated[dict[str, Any], AfterValidator(mended)]
"""A JSON object of a stranger: pydantic renders no field whose name holds half of a pair."""
