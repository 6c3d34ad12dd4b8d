"""Parts: everything that a workspace is made of, built on first use; also the kit of its components."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from agentkd import hookspecs
from agentkd.config import AgentSettings, Settings, WhenTainted
from agentkd.cycle.ceiling import Ceiling
from agentkd.errors import ConfigError, NotFoundError
from agentkd.plugins import KINDS, Hooks, PluginHost, Registry, check_keys
from agentkd.protocols import (
    Distiller,
    Embedder,
    Environment,
    Index,
    Model,
    Progress,
    Recaller,
    RecallStage,
    Refiner,
    Sandbox,
    Selector,
    Suite,
    Tool,
    Trainer,
)
from agentkd.schema import Checkpoint, Scope, Standing, Task, Trajectory, Usage, Use
from agentkd.stop import StopFile

if TYPE_CHECKING:
    from agentkd.agents import Agent
    from agentkd.cycle.aside import Aside
    from agentkd.cycle.routing import Acting
    from agentkd.ledger import Ledger
    from agentkd.memory import MemoryStore
    from agentkd.models.booking import Booked, Meter
    from agentkd.models.gguf import ModelFiles
    from agentkd.skills import SkillLibrary

__all__ = ["FOLDERS", "LOCAL_PREFIXES", "ROUTED", "Parts", "checkpoint_of"]

FOLDERS = ("datasets", "checkpoints", "cycles", "skills", "signals", "index")
"""Folders of a workspace that a cycle writes files to."""
LOCAL_PREFIXES = ("wheel:", "hf:", "path:")
ROUTED = "routed"
"""Role of no model of its own: per request one of several students, or the base."""
BUILT_IN = "agentkd.builtins"


def checkpoint_of(spec: str) -> str:
    """Return the checkpoint behind a resolved model string; `base` where it names another model."""
    return spec.removeprefix("agentkd/") if spec.startswith("agentkd/") else "base"


class Parts:
    """The parts of one workspace: implements `agentkd.protocols.Kit`."""

    def __init__(
        self, root: Path, settings: Settings, host: PluginHost, progress: Progress, cache_dir: Path
    ) -> None:
        self.root = root
        self.settings = settings
        self.host = host
        self.progress = progress
        self.cache_dir = cache_dir
        self.stop = StopFile(root)
        """The kill switch."""
        self.ceiling = Ceiling(asked=self.stop.asked)
        """What the present call may take; outside a cycle only the kill switch ends it."""
        self.tried: dict[str, set[str]] = {}
        """What a remote teacher was asked since the workspace was opened, by the name of its log."""
        self._models: dict[str, Booked] = {}
        self._suites: dict[str, Suite] = {}
        self._strangers: set[str] = set()
        self._lock = threading.RLock()
        self._check_tables()

    def _check_tables(self) -> None:
        """Refuse a table such as `[suite.x]` that no component would ever read, and unknown keys in one."""
        for kind in KINDS:
            for name, options in getattr(self.settings, kind, {}).items():
                check_keys(self.registry.get(kind, name), options)
        for name, options in self.settings.train.objective.items():
            check_keys(self.registry.get("objective", name), options.keys() - {"weight"})

    @property
    def hooks(self) -> Hooks:
        """Typed hook calls."""
        return self.host.hooks

    @property
    def registry(self) -> Registry:
        """Components by kind and name."""
        return self.host.registry

    def build(self, kind: str, name: str, **options: Any) -> Any:
        """Build a component with its options from the config, then `options`."""
        return self.registry.build(kind, name, {**self.settings.options(kind, name), **options}, self)

    def fetch(self, source: str, sha256: str | None = None) -> Path:
        """Bring a model or data source into the cache and return its folder."""
        from agentkd.models.source import fetch

        return fetch(source, cache_dir=self.cache_dir, sha256=sha256, progress=self.progress)

    @cached_property
    def ledger(self) -> Ledger:
        """The system of record."""
        from agentkd.ledger import Ledger

        return Ledger.open(self.settings.ledger or self.root / "ledger.db", redact=self.redact)

    @cached_property
    def redact(self) -> Callable[[str], str]:
        """What takes secrets out of a text before it is stored: the core, then plugins."""
        from agentkd.ledger.redact import redactor

        def find(text: str) -> list[tuple[int, int, str]]:
            return [found for _, found in self.hooks.offers(hookspecs.find_secrets, text=text)]

        return redactor([find] if self.hooks.has(hookspecs.find_secrets) else [])

    @cached_property
    def _embedder(self) -> Embedder:
        return cast(Embedder, self.build("embedder", self.settings.memory.embedder))

    def embedder(self) -> Embedder:
        """Return the workspace's embedder."""
        with self._lock:
            return self._embedder

    def paying(self, name: str, expected: Usage, purpose: str) -> AbstractContextManager[list[Usage]]:
        """Count and book a request to a paid service, within the ceilings; see `Kit.paying`."""
        from agentkd.models.booking import paying

        return paying(self.ledger, self.meter, self.stop.check, name, expected, purpose)

    def thresholds(self) -> Mapping[str, float]:
        """Return what counts as similar for the embedder: as set, calibrated, shipped or generic."""
        from agentkd.memory.threshold import thresholds_for

        return thresholds_for(self.embedder().fingerprint, self.settings.memory, self.ledger).values()

    @cached_property
    def memory(self) -> MemoryStore:
        """Memories of this workspace; brings the index up to the ledger on first use."""
        from agentkd.memory import MemoryStore

        store = MemoryStore(
            ledger=self.ledger,
            index=cast(Index, self.build("index", self.settings.memory.index)),
            embedder=self.embedder(),
            settings=self.settings.memory,
            hooks=self.hooks,
            progress=self.progress,
            words=self.root / "index" / "words",
            stages=self.recallers(),
            kit=self,
            trust=self.settings.trust,
        )
        store.sync()
        store.renew()  # where the settings of the index changed
        return store

    def sandbox(self) -> Sandbox:
        """Return the sandbox of the settings, or the first that works; raises ConfigError without one."""
        from agentkd.cycle.roles import pick_sandbox

        return pick_sandbox(self)

    def tools(self) -> list[Tool]:
        """Return the tools that the settings give to agents."""
        return [cast(Tool, self.build("tool", name)) for name in self.settings.agent.tools]

    def trajectories(self, ids: Iterable[str]) -> Sequence[Trajectory]:
        """Return stored trajectories in the order of their ids; unknown ids are left out."""
        return self.ledger.trajectories.get_many(ids)

    def standings(self, ids: Iterable[str]) -> Mapping[str, Standing]:
        """Return since when memories have their status, by id; unknown ids are left out."""
        return self.ledger.memories.standings(ids)

    def uses(self, ids: Iterable[str]) -> Mapping[str, Sequence[Use]]:
        """Return the graded tasks that count for the lift of memories, and what these saw beside them."""
        return self.ledger.trials.uses(ids)

    def suite(self, name: str) -> Suite:
        """Return a suite by name; built once."""
        if not name:
            raise ConfigError("no suite is set", hint="set `[cycle] suite` or pass `--suite NAME`")
        with self._lock:
            if name not in self._suites:
                self._suites[name] = cast(Suite, self.build("suite", name))
            return self._suites[name]

    def distillers(self) -> list[Distiller]:
        """Return the configured distillers in order."""
        return [cast(Distiller, self.build("distiller", n)) for n in self.settings.distill.distillers]

    def recallers(self) -> list[RecallStage]:
        """Return the configured stages of recall in order."""
        return [cast(RecallStage, self.build("recaller", n)) for n in self.settings.memory.recallers]

    def refiners(self) -> list[Refiner]:
        """Return the configured refiners in order."""
        return [cast(Refiner, self.build("refiner", n)) for n in self.settings.memory.refiners]

    def selectors(self) -> list[Selector]:
        """Return the configured selectors in order."""
        return [cast(Selector, self.build("selector", n)) for n in self.settings.compile.selectors]

    def plugin_modules(self, kind: str, names: Iterable[str]) -> tuple[str, ...]:
        """Return the plugin modules that another process must load to build these components."""
        plugins = [self.host.manager.get_plugin(self.registry.get(kind, name).plugin) for name in names]
        found = [p.__name__ for p in plugins if isinstance(p, ModuleType) and p.__name__ != BUILT_IN]
        return tuple(dict.fromkeys([*self.settings.plugins.modules, *found]))

    def trainer(self) -> Trainer:
        """Return the trainer."""
        return cast(Trainer, self.build("trainer", "lora"))

    @cached_property
    def meter(self) -> Meter:
        """One ceiling for all models of a command."""
        from agentkd.models.booking import Meter

        models = self.settings.models
        return Meter(models.max_usd, models.max_tokens, models.max_calls)

    @cached_property
    def student_files(self) -> ModelFiles:
        """Files of the student's base model, fetched and converted on first use."""
        from agentkd.models.gguf import resolve_model

        return resolve_model(self.settings.roles.student, cache_dir=self.cache_dir, progress=self.progress)

    @cached_property
    def aside(self) -> Aside:
        """Where the base acts in the place of a tainted student."""
        from agentkd.cycle.aside import Aside

        return Aside(self)

    def serving(self) -> Checkpoint | None:
        """Return the checkpoint that serves; None while the base does.

        One that was trained on another base than the present one does not serve: its weights mean nothing
        there. The bare base with its memories stands in until a student of its own is promoted.
        """
        found = self.ledger.checkpoints.serving()
        if found is None or found.base_id == self.student_files.base_id:
            return found
        if found.name not in self._strangers:
            self._strangers.add(found.name)
            self.progress.say(
                f"`{found.name}` was trained on another base than `{self.settings.roles.student}`: the bare "
                "base serves (`agentkd checkpoints transfer` carries a student over)"
            )
        return None

    def role_model(self, spec: str) -> str:
        """Return what `[roles]` names for a role, and any other text as it is; ConfigError for none."""
        if spec not in ("actor", "distiller", "judge", "recaller", "teacher"):
            return spec
        named: str = getattr(self.settings.roles, spec)
        if not named:
            hint = f"set `[roles] {spec}` in agentkd.toml"
            raise ConfigError(f"no model plays the role `{spec}`", hint=hint, role=spec)
        return named

    def resolve(self, spec: str) -> str:
        """Return the model string behind a role: `base`, `agentkd/<checkpoint>`, a source or a provider's.

        Raises ConfigError where the role is not filled.
        """
        named = self.role_model(spec)
        if named == "student":
            serving = self.serving()
            return f"agentkd/{serving.name}" if serving else "base"
        return named

    def model(self, role: str) -> Model:
        """Return the model of a role of `[roles]` or of a model string."""
        from agentkd.cycle.roles import load_model

        spec = self.resolve(role)
        spec = "base" if spec == ROUTED else spec  # outside an agent there is no request to choose by
        with self._lock:
            if spec not in self._models:
                self._models[spec] = load_model(self, spec)
            return self._models[spec]

    def checkpoint(self, name: str) -> Checkpoint:
        """Return a checkpoint of the registry; raises NotFoundError."""
        return self.ledger.checkpoints.get(name)

    def checkpoint_folder(self, name: str) -> Path:
        """Return the folder of a checkpoint whose files are those that the registry knows.

        Raises NotFoundError where it is missing, CheckpointError where a file was changed or could run code.
        """
        from agentkd.hf import check_files

        registered = self.checkpoint(name)
        folder = self.root / "checkpoints" / name
        if not folder.is_dir():
            raise NotFoundError(
                f"checkpoint `{name}` is registered but its folder `{folder}` is missing",
                hint="restore the folder or roll back with `agentkd checkpoints rollback`",
            )
        check_files(folder, registered)
        return folder

    def views(self, **changes: Any) -> Any:
        """Return the prompt builder that agents and the compile step share."""
        from agentkd.agents import PromptBuilder

        library = self.skills()
        return PromptBuilder(self.agent_settings(**changes), skills=lambda: library.cards)

    def skills(self) -> SkillLibrary:
        """Return the skills in the workspace's folder and of plugins; what was revoked closes some."""
        from agentkd.skills import SkillLibrary, find_skills, skill_dirs

        found = find_skills(skill_dirs(self.hooks, [self.root / "skills"]))
        return SkillLibrary(found, lambda ids: self.ledger.revocations.withdrawn(ids))

    def agent_settings(self, **changes: Any) -> AgentSettings:
        """Return the loop's settings with some fields changed."""
        return self.settings.agent.model_copy(update=changes)

    def agent(
        self,
        spec: str | Model | Acting,
        environment: Callable[[Task], Environment],
        *,
        name: str = "agent",
        recaller: Recaller | None = None,
        recorder: Any = None,
        scope: Scope | None = None,
        changes: Mapping[str, Any] | None = None,
        interrupt_on: Sequence[str] = (),
        checkpointer: Any = None,
        has_trials: bool = True,
        has_grader: bool = False,
        when_tainted: WhenTainted | None = None,
    ) -> Agent:
        """Build an agent over a model, a role or a model string; `student` is what serves as a run begins.

        Without trials it always sees its memories; without a grader trials begin once a task was graded.
        `when_tainted` may let it ask a person; else `[agent] when_tainted` counts, with nobody to ask.
        """
        from agentkd.agents import Agent, TrialPolicy
        from agentkd.cycle.routing import who_acts

        scope = scope or self.settings.memory.scope
        policy = None
        if recaller is not None and has_trials:
            memory, seed, say = self.settings.memory, self.settings.cycle.seed, self.progress.say
            policy = TrialPolicy(self.ledger, memory, scope, seed=seed, say=say, waits=not has_grader)
        acting = who_acts(self, spec)
        unattended: WhenTainted = "allow" if self.settings.agent.when_tainted == "allow" else "refuse"
        return Agent(
            name=name,
            model=acting.model,
            environment=environment,
            views=self.views(**(changes or {})),
            settings=self.agent_settings(**(changes or {})),
            recaller=recaller,
            recorder=recorder,
            hooks=self.hooks,
            scope=scope,
            model_is_student=acting.checkpoint != "base",
            checkpoint=acting.checkpoint,
            interrupt_on=interrupt_on,
            checkpointer=checkpointer,
            trials=policy,
            router=acting.router,
            serving=acting.serving,
            check=self.stop.check,
            when_tainted=when_tainted or unattended,
            trust=self.settings.trust,
        )

    def close(self) -> None:
        """Close what was opened; safe to call twice."""
        with ExitStack() as stack:  # the last one first; what one of them cannot do leaves no other one open
            for model in self._models.values():
                stack.callback(model.close)
            for name in ("ledger", "memory"):
                if (part := self.__dict__.pop(name, None)) is not None:
                    stack.callback(part.close)
            self._models.clear()
