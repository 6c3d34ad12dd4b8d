"""Namespaces as templates such as `("users", "{user_id}")`, and whose call one is.

What lies in a namespace belongs to it alone: see `agentkd.memory.item`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from agentkd.errors import ConfigError, DataError
from agentkd.memory.item import scope_of
from agentkd.schema import Scope

__all__ = ["Asker", "Namespace"]


class Namespace:
    """A namespace whose labels may hold `{names}`, filled per call from the graph's `configurable`."""

    def __init__(self, *labels: str) -> None:
        """Name the labels from the root; raises ConfigError for one that can never be a label."""
        self.labels = labels
        for label in labels:
            _check(label, labels)
            try:
                list(string.Formatter().parse(label))
            except ValueError as error:
                raise ConfigError(f"the namespace label `{label}` cannot be read: {error}") from error

    def fill(self, config: Mapping[str, Any] | None) -> tuple[str, ...]:
        """Return the namespace for a call.

        Raises ConfigError where the configuration lacks a name: no wider namespace takes its place.
        """
        values = (config or {}).get("configurable") or {}
        return tuple(self._filled(label, values) for label in self.labels)

    def _filled(self, label: str, values: Mapping[str, Any]) -> str:
        parts = []
        for text, name, _, _ in string.Formatter().parse(label):
            parts.append(text)
            if name is None:
                continue
            if values.get(name) in (None, ""):
                raise ConfigError(
                    f"the namespace label `{label}` needs `{name}`, which the call does not give",
                    hint=f"pass config={{'configurable': {{'{name}': ...}}}}",
                )
            parts.append(str(values[name]))
        filled = "".join(parts)
        _check(filled, self.labels)
        return filled


class Asker:
    """Whose call it is: that of a namespace, which the configuration fills, of a fixed scope, or nobody's."""

    def __init__(self, namespace: Sequence[str] = (), scope: Scope | None = None) -> None:
        """Name one of the two at most; raises ConfigError for both."""
        if namespace and scope is not None:
            raise ConfigError("a call is made for a namespace or for a scope, not for both")
        self.fixed = scope
        self._namespace = Namespace(*namespace) if namespace else None

    def scope(self, config: Mapping[str, Any], base: Scope) -> Scope | None:
        """Return the scope of a call, `base` being the workspace's own; None where none was named."""
        if self._namespace is None:
            return self.fixed
        return scope_of(self._namespace.fill(config), base)


def check_text(name: str) -> None:
    """Refuse a label or key that is no Unicode text, which no database stores; raises DataError."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name!r} can be no label or key: it is no Unicode text",
            hint="half of a surrogate pair stands in it; replace it first",
        ) from error


def _check(label: str, labels: Sequence[str]) -> None:
    check_text(label)
    if not label or "." in label or "\x00" in label:
        raise DataError(
            f"`{label}` cannot be a label of the namespace {tuple(labels)}",
            hint="a label is not empty and holds no dot: it could reach into another namespace",
        )
