"""The options that name a scope: `--tenant`, `--app`, `--agent` and `--user`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["named", "scope_options"]

F = TypeVar("F", bound=Callable[..., Any])
_FIELDS = {"app": "application or suite", "agent": "agent", "user": "user", "tenant": "organisation"}


def scope_options(help_: str) -> Callable[[F], F]:
    """Add the options to a command; `{}` in the help becomes what each of them names."""

    def add(function: F) -> F:
        for name, what in reversed(_FIELDS.items()):
            function = click.option(f"--{name}", default=None, help=help_.format(what))(function)
        return function

    return add


def named(scope: dict[str, str | None]) -> dict[str, str]:
    """Return the fields that were given; an empty text asks for those that have none."""
    return {name: value for name, value in scope.items() if value is not None}
