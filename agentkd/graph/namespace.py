"""Namespaces of a store, the scopes that they stand for, and templates such as `("users", "{user_id}")`.

Everything below a namespace is remembered for that namespace alone: its dotted path is the `user` of the
memories' scope, within the workspace's own scope. An agent that asks with this scope sees them, beside
what the workspace has learnt for all; another one does not.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from agentkd.errors import ConfigError, DataError
from agentkd.schema import Scope, content_id

__all__ = ["Asker", "Namespace", "scope_of", "space_of"]


def scope_of(namespace: Sequence[str], base: Scope) -> Scope:
    """Return the scope of what is put into a namespace; two namespaces never share one."""
    path = ".".join(namespace)
    return base.model_copy(update={"user": f"{base.user}..{path}" if base.user else path})


def space_of(base: Scope) -> str:
    """Return the name under which the ledger keeps a scope's items apart from those of all others."""
    return content_id("spc", base)


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


def _check(label: str, labels: Sequence[str]) -> None:
    if not label or "." in label or "\x00" in label:
        raise DataError(
            f"`{label}` cannot be a label of the namespace {tuple(labels)}",
            hint="a label is not empty and holds no dot: it could reach into another namespace",
        )
