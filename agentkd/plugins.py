"""The plugin host: finds plugins, calls hooks through their specs, and keeps the components."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pluggy
from pydantic import BaseModel, ValidationError

from agentkd import hookspecs
from agentkd.errors import ConfigError, PluginError
from agentkd.hooks import HOOK_SECONDS, Hooks, blaming
from agentkd.schema.base import Value

if TYPE_CHECKING:
    from agentkd.config import PluginSettings, Settings

__all__ = [
    "KINDS",
    "Component",
    "Hooks",
    "Installed",
    "NoSettings",
    "PluginHost",
    "Registry",
    "blaming",
    "installed_plugins",
    "nearest",
    "open_host",
]

S = TypeVar("S", bound=BaseModel)

ENTRY_POINT_GROUP = "agentkd"

KINDS = (
    "model", "embedder", "index", "tool", "suite", "distiller", "refiner", "recaller", "synthesizer",
    "selector", "scorer", "sandbox", "signals", "objective", "aligner", "trainer", "evaluator", "transform",
    "recipe", "executor",
)  # fmt: skip
"""Every kind of component, with its promise in `agentkd.protocols`."""


class Installed(Value):
    """A plugin that is installed, as its distribution declares it: nothing of it was imported."""

    name: str
    """Name of its entry point."""
    version: str
    """Version of its distribution."""
    distribution: str
    """Distribution that brings it."""
    module: str
    """What would be imported."""
    is_loaded: bool
    """Whether a workspace with these settings imports it."""


def installed_plugins(chosen: PluginSettings) -> list[Installed]:
    """Return the installed plugins and whether `[plugins]` lets them in; imports none of them."""
    allowed = {name.partition("==")[0] for name in chosen.allow}
    return [
        Installed(
            name=point.name,
            version=point.dist.version if point.dist else "",
            distribution=point.dist.name if point.dist else "",
            module=point.value,
            is_loaded=point.name not in chosen.block and (chosen.auto or point.name in allowed),
        )
        for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name)
    ]


class NoSettings(Value):
    """Settings of a component that has none."""


@dataclass(frozen=True)
class Component(Generic[S]):
    """A named, replaceable part: `build(settings, kit)` returns an object that keeps its kind's promise."""

    kind: str
    """One of `KINDS`."""
    name: str
    """kebab-case name, unique within the kind."""
    summary: str
    """One sentence for `agentkd plugins list`."""
    build: Callable[[Any, Any], Any]
    """Factory: `build(settings, kit)`."""
    settings: type[S] = field(default=NoSettings)  # type: ignore[assignment]
    """pydantic class of its options; field docstrings are the help."""
    suggests: Mapping[str, Any] = field(default_factory=dict)
    """For a suite: settings of a workspace that suit it; file, environment and keywords overrule them."""
    plugin: str = ""
    """Name of the plugin that offered it; filled by the host."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the most similar known word, or lists them all."""
    words = sorted(known)
    close = difflib.get_close_matches(name, words, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(words) or 'none'}"


class Registry:
    """The components of one plugin host, by kind and name."""

    def __init__(self) -> None:
        self._components: dict[tuple[str, str], Component[Any]] = {}

    def add(self, component: Component[Any]) -> None:
        """Register a component; raises PluginError on a clash or an unknown kind."""
        if component.kind not in KINDS:
            raise PluginError(
                f"plugin `{component.plugin}` offers `{component.name}` of unknown kind `{component.kind}`",
                hint=nearest(component.kind, KINDS),
                plugin=component.plugin,
            )
        key = (component.kind, component.name)
        other = self._components.get(key)
        if other is not None:
            raise PluginError(
                f"plugins `{other.plugin}` and `{component.plugin}` both offer the {component.kind} "
                f"`{component.name}`",
                hint="switch one off with `[plugins] block`",
                plugin=component.plugin,
            )
        self._components[key] = component

    def names(self, kind: str) -> list[str]:
        """Return the sorted names of a kind."""
        return sorted(name for k, name in self._components if k == kind)

    def get(self, kind: str, name: str) -> Component[Any]:
        """Return a component; raises ConfigError with the nearest name."""
        try:
            return self._components[(kind, name)]
        except KeyError:
            raise ConfigError(
                f"no {kind} is called `{name}`", hint=nearest(name, self.names(kind)), kind=kind, name=name
            ) from None

    def __iter__(self) -> Iterator[Component[Any]]:
        """Iterate in the order of kinds, then names."""
        return iter(sorted(self._components.values(), key=lambda c: (KINDS.index(c.kind), c.name)))

    def build(self, kind: str, name: str, options: Mapping[str, Any], kit: Any) -> Any:
        """Validate `options` against the component's settings and build it.

        Raises ConfigError for unknown or wrong options, PluginError naming the plugin when the
        factory itself fails.
        """
        component = self.get(kind, name)
        settings = check_options(component, options)
        with blaming(component.plugin, f"{kind} `{name}`"):
            return component.build(settings, kit)


def check_keys(component: Component[Any], options: Iterable[str]) -> None:
    """Refuse an option that the component does not have, with the nearest one that it has."""
    known = component.settings.model_fields
    for key in options:
        if key not in known:
            raise ConfigError(
                f"{component.kind} `{component.name}` has no option `{key}`",
                hint=nearest(key, known),
                key=key,
            )


def check_options(component: Component[Any], options: Mapping[str, Any]) -> BaseModel:
    """Validate options; the error names the component, the key and the nearest known key."""
    check_keys(component, options)
    try:
        settings: BaseModel = component.settings.model_validate(dict(options))
        return settings
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"option `{where}` of {component.kind} `{component.name}`: {first['msg']}", key=where
        ) from error


def open_host(read: Callable[[Mapping[str, Any]], Settings]) -> tuple[Settings, PluginHost]:
    """Load settings and the plugins that they name, the built-in ones always among them.

    `read` reads the settings over what is suggested; it is called a second time where the chosen suite
    suggests something.
    """
    settings = read({})
    chosen = settings.plugins
    host = PluginHost.chosen(chosen)
    if "builtins" not in host.versions:  # a copied tree has no entry points
        host.load_module("agentkd.builtins")
    suite = settings.cycle.suite
    if suite in host.registry.names("suite"):
        suggested = host.registry.get("suite", suite).suggests
        settings = read(suggested) if suggested else settings
    return settings, host


class PluginHost:
    """The plugins of one workspace: never global, so two workspaces may differ."""

    def __init__(
        self,
        *,
        auto: bool = True,
        modules: Iterable[str] = (),
        block: Iterable[str] = (),
        allow: Iterable[str] = (),
        hook_seconds: float = HOOK_SECONDS,
    ) -> None:
        """Load plugins.

        Args:
            auto: Whether all installed entry points of the group `agentkd` are loaded.
            modules: Modules to load by name (a copied tree has no entry points).
            block: Plugin names that are not loaded.
            allow: Entry points that are loaded without `auto`, as `name` or `name==version`.
            hook_seconds: How long a hook of a plugin may take; 0 sets no limit.

        Raises:
            ConfigError: a module or an allowed entry point is not there, or has another version.
            PluginError: a plugin failed, named.
        """
        self.manager = pluggy.PluginManager("agentkd")
        self.manager.add_hookspecs(hookspecs)
        self.hooks = Hooks(self.manager, seconds=hook_seconds)
        self.registry = Registry()
        self.versions: dict[str, str] = {}
        self._blocked = set(block)
        if auto or (allowed := tuple(allow)):
            self._load_entry_points(None if auto else allowed)
        for module in modules:
            self.load_module(module)

    @classmethod
    def chosen(cls, chosen: PluginSettings, *, block: Iterable[str] = ()) -> PluginHost:
        """Load the plugins that `[plugins]` names, without those that are blocked there or here."""
        return cls(
            auto=chosen.auto,
            modules=chosen.modules,
            block=(*chosen.block, *block),
            allow=chosen.allow,
            hook_seconds=chosen.hook_seconds,
        )

    def _load_entry_points(self, allowed: tuple[str, ...] | None) -> None:
        """Load the installed plugins; of `allowed` alone where it is given: no other one is imported."""
        wanted = None if allowed is None else dict(name.partition("==")[::2] for name in allowed)
        points = sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name)
        for name in wanted or ():
            if name not in {point.name for point in points}:
                hint = nearest(name, {point.name for point in points})
                raise ConfigError(f"no installed plugin is called `{name}`", hint=hint, key="plugins.allow")
        for point in points:
            if point.name in self._blocked or (wanted is not None and point.name not in wanted):
                continue
            version = point.dist.version if point.dist else ""
            pinned = "" if wanted is None else wanted[point.name]
            if pinned and pinned != version:
                raise ConfigError(
                    f"plugin `{point.name}` has version {version or 'none'}, and {pinned} is allowed",
                    hint="look at what changed, then change `[plugins] allow`",
                    key="plugins.allow",
                )
            with blaming(point.name, f"its import (`{point.value}`)"):
                plugin = point.load()
            self.add(plugin, point.name, version)

    def load_module(self, module: str) -> None:
        """Load a plugin by module name; raises ConfigError where it does not exist."""
        if module in self._blocked:
            return
        try:
            plugin = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(error.name + ".")):
                raise ConfigError(
                    f"plugin module `{module}` cannot be found",
                    hint="check `[plugins] modules`",
                    module=module,
                ) from error
            raise PluginError(f"plugin `{module}` failed in its import: {error}", plugin=module) from error
        except Exception as error:
            raise PluginError(
                f"plugin `{module}` failed in its import: {type(error).__name__}: {error}", plugin=module
            ) from error
        if any(plugin is other for other in self.manager.get_plugins()):
            return
        self.add(plugin, module, getattr(plugin, "__version__", ""))

    def add(self, plugin: object, name: str, version: str = "") -> None:
        """Register a plugin object and take in its components."""
        if name in self._blocked or self.manager.has_plugin(name):
            return
        with blaming(name, "registration"):
            self.manager.register(plugin, name=name)
            self.manager.check_pending()
            for caller in self.manager.get_hookcallers(plugin) or ():
                if any(i.plugin is plugin and (i.wrapper or i.hookwrapper) for i in caller.get_hookimpls()):
                    raise TypeError(f"its hook `{caller.name}` is a wrapper, which agentkd does not call")
        self.versions[name] = version
        for component in self.hooks.offered_by(name, hookspecs.components):
            if not isinstance(component, Component):
                raise PluginError(
                    f"plugin `{name}` offered `{component!r}`, which is not a Component", plugin=name
                )
            self.registry.add(replace(component, plugin=name))
