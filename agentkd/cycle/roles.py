"""What plays a part in a workspace: the model of a role, and the sandbox of its code tools."""

from __future__ import annotations

from typing import cast

from agentkd.cycle.parts import LOCAL_PREFIXES, Parts
from agentkd.errors import ConfigError
from agentkd.models.booking import Booked
from agentkd.protocols import Model, Sandbox

__all__ = ["SANDBOXES", "booked", "load_model", "pick_sandbox"]

SANDBOXES = ("sandlock", "bubblewrap")
"""Sandboxes in the order in which they are tried."""


def load_model(parts: Parts, spec: str) -> Booked:
    """Build the model behind a model string, booked."""
    if spec == "base":
        model = parts.build("model", "local", source=parts.settings.roles.student)
    elif spec.startswith("agentkd/"):
        name = spec.removeprefix("agentkd/")
        folder = parts.checkpoint_folder(name)
        model = parts.build(
            "model", "local", source=parts.settings.roles.student, adapter=str(folder), adapter_name=name
        )
    elif spec.startswith(LOCAL_PREFIXES):
        model = parts.build("model", "local", source=spec)
    elif spec.startswith("scripted:"):
        model = parts.build("model", "scripted", script=spec.removeprefix("scripted:"))
    elif spec in parts.registry.names("model"):
        model = parts.build("model", spec)
    else:
        model = parts.build("model", "litellm", model=spec)
    return booked(parts, cast(Model, model))


def booked(parts: Parts, model: Model) -> Booked:
    """Return a model whose calls are booked, metered and stopped with the workspace."""
    if isinstance(model, Booked):  # of a workspace, this one or another
        return model
    return Booked(model, parts.ledger, parts.settings.models, meter=parts.meter, check=parts.stop.check)


def pick_sandbox(parts: Parts) -> Sandbox:
    """Return the sandbox of the settings, or the first that works here; raises ConfigError without one."""
    named = parts.settings.agent.sandbox
    names = SANDBOXES if named == "auto" else (named,)
    why_not = {}
    for name in names:
        sandbox = cast(Sandbox, parts.build("sandbox", name))
        if not (why := sandbox.why_not()):
            return sandbox
        why_not[name] = why
    raise ConfigError(
        "code is not run, because no sandbox works here: "
        + "; ".join(f"`{name}`: {why}" for name, why in why_not.items()),
        hint="pip install 'agentkd[sandbox]', or install bubblewrap",
        key="agent.sandbox",
    )
