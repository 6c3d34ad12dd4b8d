"""The plugin host: finds plugins, calls hooks through their specs, and keeps the components."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

import pluggy
from pydantic import BaseModel, ValidationError

from agentkd import hookspecs
from agentkd.config import Settings
from agentkd.errors import AgentkdError, ConfigError, PluginError
from agentkd.schema import Value

__all__ = ["KINDS", "Component", "Hooks", "NoSettings", "PluginHost", "Registry", "nearest", "open_host"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
S = TypeVar("S", bound=BaseModel)

ENTRY_POINT_GROUP = "agentkd"

KINDS = (
    "model", "embedder", "index", "tool", "suite", "distiller", "refiner", "recaller", "synthesizer",
    "selector", "scorer", "signals", "objective", "aligner", "trainer", "evaluator", "transform",
    "recipe", "executor",
)  # fmt: skip
"""Every kind of component, with its promise in `agentkd.protocols`."""


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


@contextmanager
def blaming(plugin: str, what: str) -> Iterator[None]:
    """Turn any stray exception of plugin code into a PluginError that names the plugin."""
    try:
        yield
    except AgentkdError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin `{plugin}` failed in {what}: {type(error).__name__}: {error}",
            hint="switch it off with `[plugins] block`, or report it to its author",
            plugin=plugin,
        ) from error


class Hooks:
    """Typed hook calls: `hooks.ask(hookspecs.after_run, trajectory=t)`."""

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._manager = manager

    def ask(self, spec: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> list[R]:
        """Call every plugin and return the answers that are not None (offer and notice hooks)."""
        answers = self._call(spec, kwargs)
        return answers if isinstance(answers, list) else [] if answers is None else [answers]

    def offers(
        self, spec: Callable[P, Iterable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> list[tuple[str, T]]:
        """Return (plugin, item) for all that the plugins offer, first registered first.

        Generators are read to their end here, so that what breaks inside one carries its plugin's name.
        """
        offered: list[tuple[str, T]] = []
        for impl in getattr(self._manager.hook, spec.__name__).get_hookimpls():
            with blaming(impl.plugin_name, f"hook `{spec.__name__}`"):
                answer = impl.function(**{name: kwargs[name] for name in impl.argnames})
                offered.extend((impl.plugin_name, item) for item in answer or ())
        return offered

    def has(self, spec: Callable[..., Any]) -> bool:
        """Whether any plugin implements a hook."""
        return bool(getattr(self._manager.hook, spec.__name__).get_hookimpls())

    def decide(self, spec: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the first answer that is not None (decide hooks)."""
        answer: R | None = self._call(spec, kwargs)
        return answer

    def refusals(self, spec: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """Return the names of the plugins that answered False (veto hooks)."""
        caller = getattr(self._manager.hook, spec.__name__)
        names = []
        for impl in reversed(caller.get_hookimpls()):
            with blaming(impl.plugin_name, f"hook `{spec.__name__}`"):
                if impl.function(**{name: kwargs[name] for name in impl.argnames}) is False:
                    names.append(impl.plugin_name)
        return names

    def _call(self, spec: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
        caller = getattr(self._manager.hook, spec.__name__)
        try:
            return caller(**kwargs)
        except AgentkdError:
            raise
        except Exception as error:
            plugin = _culprit(caller, error.__traceback__)
            with blaming(plugin, f"hook `{spec.__name__}`"):
                raise


def _culprit(caller: pluggy.HookCaller, trace: TracebackType | None) -> str:
    codes = {getattr(impl.function, "__code__", None): impl.plugin_name for impl in caller.get_hookimpls()}
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return codes[trace.tb_frame.f_code]
        trace = trace.tb_next
    return "unknown"


def open_host(read: Callable[[Mapping[str, Any]], Settings]) -> tuple[Settings, PluginHost]:
    """Load settings and the plugins that they name, the built-in ones always among them.

    `read` reads the settings over what is suggested; it is called a second time where the chosen suite
    suggests something.
    """
    settings = read({})
    chosen = settings.plugins
    host = PluginHost(auto=chosen.auto, modules=chosen.modules, block=chosen.block)
    if "builtins" not in host.versions:  # a copied tree has no entry points
        host.load_module("agentkd.builtins")
    suite = settings.cycle.suite
    if suite in host.registry.names("suite"):
        suggested = host.registry.get("suite", suite).suggests
        settings = read(suggested) if suggested else settings
    return settings, host


class PluginHost:
    """The plugins of one workspace: never global, so two workspaces may differ."""

    def __init__(self, *, auto: bool = True, modules: Iterable[str] = (), block: Iterable[str] = ()) -> None:
        """Load plugins.

        Args:
            auto: Whether the installed entry points of the group `agentkd` are loaded.
            modules: Modules to load by name (a copied tree has no entry points).
            block: Plugin names that are not loaded.
        """
        self.manager = pluggy.PluginManager("agentkd")
        self.manager.add_hookspecs(hookspecs)
        self.hooks = Hooks(self.manager)
        self.registry = Registry()
        self.versions: dict[str, str] = {}
        self._blocked = set(block)
        if auto:
            self._load_entry_points()
        for module in modules:
            self.load_module(module)

    def _load_entry_points(self) -> None:
        for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
            if point.name in self._blocked:
                continue
            with blaming(point.name, f"its import (`{point.value}`)"):
                plugin = point.load()
            self.add(plugin, point.name, point.dist.version if point.dist else "")

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
        self.versions[name] = version
        offer = getattr(plugin, "components", None)
        if offer is None or not _is_impl(self.manager, plugin, "components"):
            return
        with blaming(name, "hook `components`"):
            offered = list(offer())
        for component in offered:
            if not isinstance(component, Component):
                raise PluginError(
                    f"plugin `{name}` offered `{component!r}`, which is not a Component", plugin=name
                )
            self.registry.add(replace(component, plugin=name))


def _is_impl(manager: pluggy.PluginManager, plugin: object, hook: str) -> bool:
    return any(impl.plugin is plugin for impl in getattr(manager.hook, hook).get_hookimpls())
