"""Who teaches a training: `[train] teacher` as the fields of the job, with everything fetched beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentkd import hf
from agentkd.cycle.parts import LOCAL_PREFIXES, Parts
from agentkd.errors import ConfigError
from agentkd.schema import TrainSettings, content_id

__all__ = [
    "OWN_ADAPTER",
    "SCORES_TEXT",
    "is_remote",
    "objective_modules",
    "objective_needs",
    "settings_with_folders",
    "teacher_fields",
    "writes_text",
]

OWN_ADAPTER = "checkpoint:"
SCORES_TEXT = "text-completion-"
"""LiteLLM strings that begin so name a server of text completions, which can score a given text."""


def is_remote(teacher: str) -> bool:
    """Whether a teacher answers over the network: a LiteLLM string, or a component of kind `model`."""
    return bool(teacher) and not teacher.startswith((*LOCAL_PREFIXES, OWN_ADAPTER))


def writes_text(teacher: str) -> bool:
    """Whether a teacher is a chat model: it cannot score a given text and answers in its own words."""
    return is_remote(teacher) and not teacher.startswith(SCORES_TEXT)


def teacher_fields(parts: Parts) -> dict[str, Any]:
    """Return the fields of a job that name its teacher.

    Fetches and converts a model source on first use. Raises ConfigError for an adapter on another base, and
    before anything is fetched for a teacher that no objective would learn from.
    """
    teacher = parts.settings.train.teacher
    if not teacher:
        return {}
    if not writes_text(teacher) and not any(need.startswith("teacher") for need in objective_needs(parts)):
        named = ", ".join(f"`{name}`" for name in parts.settings.train.objective)
        raise ConfigError(
            f"`[train] teacher` is `{teacher}`, and none of the objectives ({named}) learns from a teacher",
            hint="leave it empty, or add an objective that does, such as `[train.objective.forward-kl]`",
            key="train.teacher",
        )
    if is_remote(teacher):
        return {"teacher_id": _remote_id(parts, teacher)}
    if not teacher.startswith(OWN_ADAPTER):
        from agentkd.models.gguf import resolve_model

        files = resolve_model(teacher, cache_dir=parts.cache_dir, progress=parts.progress)
        return {"teacher": str(files.path), "teacher_id": files.base_id}
    name = teacher.removeprefix(OWN_ADAPTER)
    checkpoint, folder = parts.checkpoint(name), parts.checkpoint_folder(name)
    if checkpoint.base_id != parts.student_files.base_id:
        raise ConfigError(
            f"teacher `{teacher}` was trained on another base than `{parts.settings.roles.student}`",
            hint="name a checkpoint of the present student (`agentkd checkpoints list`) or a model source",
            key="train.teacher",
        )
    if checkpoint.status == "tainted":
        raise ConfigError(
            f"teacher `{teacher}` was trained on a memory that was revoked since",
            hint="name an older checkpoint",
            key="train.teacher",
        )
    digest = hf.file_sha256(Path(folder) / "adapter_model.safetensors")
    return {
        "teacher_adapter": str(folder),
        "teacher_id": content_id("teacher", checkpoint.base_id, digest),
    }


def _remote_id(parts: Parts, teacher: str) -> str:
    """Return the name of a remote teacher: the same string at another address is another model."""
    component = teacher if teacher in parts.registry.names("model") else "litellm"
    address = str(parts.settings.options("model", component).get("api_base", ""))
    return content_id("remote", teacher, *([address] if address else []))


def settings_with_folders(parts: Parts) -> TrainSettings:
    """Return the settings with the folder for each objective's `reference` that names a checkpoint.

    Raises ConfigError for a checkpoint on another base or one that rests on what was revoked.
    """
    train = parts.settings.train
    objectives = {name: _with_folder(parts, name, options) for name, options in train.objective.items()}
    return train.model_copy(update={"objective": objectives})


def _with_folder(parts: Parts, objective: str, options: dict[str, Any]) -> dict[str, Any]:
    wanted = str(options.get("reference", ""))
    if not wanted.startswith(OWN_ADAPTER):
        return options
    checkpoint = parts.checkpoint(wanted.removeprefix(OWN_ADAPTER))
    if checkpoint.base_id != parts.student_files.base_id or checkpoint.status == "tainted":
        raise ConfigError(
            f"`[train.objective.{objective}] reference` = `{wanted}` is of another base or was tainted",
            hint="name a checkpoint of the present student (`agentkd checkpoints list`)",
            key=f"train.objective.{objective}.reference",
        )
    return options | {"reference": str(parts.checkpoint_folder(checkpoint.name))}


def objective_modules(parts: Parts) -> tuple[str, ...]:
    """Return the plugin modules of the objectives and of those that `selective` is around."""
    named = parts.settings.train.objective
    known = set(parts.registry.names("objective"))
    inner = [name for options in named.values() if (name := str(options.get("objective"))) in known]
    return parts.plugin_modules("objective", [*named, *inner])


def objective_needs(parts: Parts) -> frozenset[str]:
    """Return what the configured objectives ask of the rows: see `Objective.requires`."""
    registry, built = parts.registry, []
    for name, options in parts.settings.train.objective.items():
        rest = {key: value for key, value in options.items() if key != "weight"}
        objective = registry.build("objective", name, rest, parts)
        if hasattr(objective, "wrap"):  # around another loss, which may be a plugin's
            objective.wrap(registry.build("objective", objective.objective, objective.options, parts))
        built.append(objective)
    return frozenset[str]().union(*(objective.requires for objective in built))
