"""Settings: defaults < the suite's < agentkd.toml < `AGENTKD__A__B` < `--set a.b=c` < keywords.

Every table of `agentkd.toml` is a class here, named after the stage that reads it; options of a
component live in the table of its kind and name, such as `[suite.jsonl]`. Unknown keys are refused
with the nearest known key.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from agentkd.config.plugins import PluginSettings
from agentkd.errors import ConfigError
from agentkd.schema.base import Value

if TYPE_CHECKING:
    from agentkd.config.settings import Settings

__all__ = ["CONFIG_NAME", "load_plugin_settings", "load_settings"]

CONFIG_NAME = "agentkd.toml"

V = TypeVar("V", bound=Value)


def load_settings(
    root: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    assignments: Iterable[str] = (),
    overrides: Mapping[str, Any] | None = None,
    suggested: Mapping[str, Any] | None = None,
) -> Settings:
    """Read and check the settings of a workspace folder.

    Args:
        root: Folder that may hold `agentkd.toml`; None reads no file.
        environ: Environment; `AGENTKD__TRAIN__EPOCHS=2` sets `train.epochs`.
        assignments: `a.b=c` texts of `--set`; values are JSON, else plain text.
        overrides: Nested mapping with the last word.
        suggested: Nested mapping that everything else overrules: what a plugin holds to be best.

    Raises:
        ConfigError: the file is not TOML, a key is unknown, or a value does not fit.
    """
    from agentkd.config.settings import Settings

    data: dict[str, Any] = {}
    _merge(data, suggested or {})
    source = _read(data, root, environ, assignments, suggested or {})
    _merge(data, overrides or {})
    for path in _leaves(overrides or {}):
        source.name(path, "keywords")
    return _check(Settings, data, source)


def load_plugin_settings(root: Path | None = None, *, assignments: Iterable[str] = ()) -> PluginSettings:
    """Read and check the table `[plugins]` alone, as `load_settings` does, at a fraction of its cost.

    Raises:
        ConfigError: the file is not TOML, or this table does not fit; others are not looked at.
    """
    data: dict[str, Any] = {}
    source = _read(data, root, None, assignments, {})
    return _check(PluginSettings, data.get("plugins", {}), source, ("plugins",))


class _Sources:
    """Where settings came from: the file, unless a variable, an assignment or a keyword set them."""

    def __init__(self) -> None:
        self.file = "keywords"
        self._named: list[tuple[tuple[str, ...], str]] = []

    def name(self, path: Sequence[str], source: str) -> None:
        """Say who set a key; the last one wins."""
        self._named.append((tuple(path), source))

    def of(self, path: Sequence[str]) -> str:
        """Return who set a key, a table that holds it or one below it."""
        for own, source in reversed(self._named):
            if all(ours == theirs for ours, theirs in zip(own, path, strict=False)):
                return source
        return self.file


def _leaves(data: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)


def _read(
    data: dict[str, Any],
    root: Path | None,
    environ: Mapping[str, str] | None,
    assignments: Iterable[str],
    suggested: Mapping[str, Any],
) -> _Sources:
    """Lay the file, the environment and the assignments over `data`; return where they came from."""
    source = _Sources()
    for path in _leaves(suggested):
        source.name(path, "what a plugin suggests")
    if root is not None and (root / CONFIG_NAME).is_file():
        source.file = str(root / CONFIG_NAME)
        try:
            written = tomllib.loads((root / CONFIG_NAME).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"`{source.file}` is not valid TOML: {error}", path=source.file) from error
        _merge(data, written)
        for path in _leaves(written):
            source.name(path, source.file)
    for name, text in sorted((os.environ if environ is None else environ).items()):
        if name.startswith("AGENTKD__"):
            below = [part.lower() for part in name.split("__")[1:]]
            _assign(data, below, _value(text), name)
            source.name(below, f"`{name}`")
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"`--set {assignment}` has no `=`", hint="write `--set train.epochs=2`")
        below = key.strip().split(".")
        _assign(data, below, _value(text), f"--set {key}")
        source.name(below, f"`--set {key.strip()}`")
    return source


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assign(data: dict[str, Any], path: list[str], value: Any, source: str) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"`{source}`: `{part}` is a value, not a table")
    data[path[-1]] = value


def _merge(data: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            below = data.setdefault(key, {})
            if isinstance(below, dict):
                _merge(below, value)
                continue
        data[key] = value


def _check(model: type[V], data: Any, sources: _Sources, table: tuple[str, ...] = ()) -> V:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = [*table, *(str(part) for part in first["loc"])]
        where, source = ".".join(path), sources.of(path)
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"unknown key `{where}` in {source}",
                hint=_nearest_key(model, path[len(table) :]),
                key=where,
                path=source,
            ) from error
        raise ConfigError(f"`{where}` in {source}: {first['msg']}", key=where, path=source) from error


def _nearest_key(root: type[Value], path: list[str]) -> str:
    model: Any = root
    for part in path[:-1]:
        annotation = (
            model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else None
        )
        model = annotation if hasattr(annotation, "model_fields") else None
    known = sorted(getattr(model, "model_fields", {}))
    close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"
