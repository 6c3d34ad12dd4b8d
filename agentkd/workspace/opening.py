"""Opening a workspace: its folder, its parts, its models and agents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agentkd.config import CONFIG_NAME, Settings, load_settings
from agentkd.errors import ConfigError
from agentkd.files import write_whole
from agentkd.plugins import Hooks, Registry, nearest, open_host
from agentkd.protocols import Model, Progress, SilentProgress, Tool

if TYPE_CHECKING:
    from typing import Self

    from agentkd.agents import Agent
    from agentkd.ledger import Ledger
    from agentkd.memory import MemoryStore
    from agentkd.schema import Backup, Scope

__all__ = ["Opening"]

FOLDERS = ("datasets", "checkpoints", "cycles", "skills")

TEMPLATE = """\
# Settings of this workspace; `agentkd config show` prints all of them with their defaults.

[roles]
student = {student}
actor = {actor}

[cycle]
suite = {suite}
"""


class Opening:
    """A workspace's folder with its settings, plugins and parts; `agentkd.Workspace` is made of it."""

    def __init__(
        self,
        root: str | Path = ".",
        *,
        settings: Mapping[str, Any] | None = None,
        assignments: Iterable[str] = (),
        progress: Progress | None = None,
        plugins: Iterable[object] = (),
    ) -> None:
        """Open a workspace folder, making it where it does not exist.

        Args:
            root: The folder; `~` is expanded.
            settings: Nested settings with the last word over file and environment.
            assignments: `a.b=c` texts, as of `--set`.
            progress: Where progress is shown; nothing by default.
            plugins: Plugin objects of the application itself, besides the installed ones.

        Raises:
            ConfigError: the settings are wrong.
            PluginError: a plugin failed, named.
        """
        from agentkd.cycle.parts import Parts
        from agentkd.models.source import default_cache_dir

        self.root = Path(root).expanduser().resolve()
        told = list(assignments)
        loaded, host = open_host(
            lambda suggested: load_settings(
                self.root, assignments=told, overrides=settings, suggested=suggested
            )
        )
        for plugin in plugins:
            host.add(plugin, getattr(plugin, "__name__", type(plugin).__name__))
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the workspace `{self.root}`: {error.strerror}") from error
        self.parts = Parts(self.root, loaded, host, progress or SilentProgress(), default_cache_dir())

    @classmethod
    def create(
        cls, root: str | Path, *, suite: str = "", student: str = "", actor: str = "", force: bool = False
    ) -> Self:
        """Make a workspace folder with an `agentkd.toml`; refuses one that has it unless `force`."""
        folder = Path(root).expanduser().resolve()
        config = folder / CONFIG_NAME
        if config.exists() and not force:
            raise ConfigError(f"`{config}` exists already", hint="choose another folder or pass `--force`")
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        roles = Settings().roles
        named = {"student": student or roles.student, "actor": actor or roles.actor, "suite": suite}
        quoted = {key: json.dumps(value, ensure_ascii=False) for key, value in named.items()}
        write_whole(config, TEMPLATE.format(**quoted))
        return cls(folder)

    @classmethod
    def restore(cls, source: str | Path, root: str | Path, *, force: bool = False) -> Self:
        """Put a backup into a folder and open it, with its index made anew; see `agentkd.workspace.backup`.

        `force` moves aside what the folder holds. Raises DataError for a damaged backup.
        """
        from agentkd.workspace.backup import renew_index, restore

        restore(Path(source), Path(root), force=force)
        workspace = cls(root)
        renew_index(workspace)
        return workspace

    def backup(self, target: str | Path) -> Backup:
        """Write a backup of the whole workspace into a new folder, while others go on using it."""
        from agentkd.workspace.backup import backup

        return backup(self, Path(target))

    @property
    def settings(self) -> Settings:
        """Settings in force."""
        return self.parts.settings

    @property
    def ledger(self) -> Ledger:
        """The system of record."""
        return self.parts.ledger

    @property
    def memory(self) -> MemoryStore:
        """Memories: recall, history, revoke, audit, rebuild."""
        return self.parts.memory

    @property
    def hooks(self) -> Hooks:
        """Typed hook calls."""
        return self.parts.hooks

    @property
    def registry(self) -> Registry:
        """Components by kind and name."""
        return self.parts.registry

    @property
    def plugins(self) -> dict[str, str]:
        """Loaded plugins and their versions."""
        return dict(self.parts.host.versions)

    def model(self, spec: str = "actor") -> Model:
        """Return the model of a role or model string."""
        return self.parts.model(spec)

    def litellm_provider(self) -> Callable[[], None]:
        """Let `litellm.completion(model="agentkd/<checkpoint>")` reach the students of this workspace.

        `agentkd/student` is what serves, `agentkd/base` the bare base. Returns a function that takes the
        provider away again.
        """
        from agentkd.models.provider import register

        return register(lambda name: self.model(name if name in ("student", "base") else f"agentkd/{name}"))

    def agent(
        self,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        *,
        name: str = "agent",
        instructions: str = "",
        model: str | Model = "actor",
        recall: bool = True,
        scope: Scope | None = None,
        interrupt_on: Iterable[str] = (),
        checkpointer: Any = None,
    ) -> Agent:
        """Make an agent over your own tools.

        Args:
            tools: Functions decorated with `@agentkd.tool`, plain typed functions, or Tool objects.
            name: Name that its error messages print.
            instructions: System instructions; empty takes those of the settings.
            model: Role, model string such as `openai/gpt-5-mini`, or a Model object. Where it is `student`,
                every run begins with what serves then, and goes on with that.
            recall: Whether memories are recalled.
            scope: Whom it works for, such as `Scope(user="ann")`: whose memories it recalls, and whose its
                runs are; `[memory] scope` by default.
            interrupt_on: Names of tools whose calls wait for a person. A tool with side effects waits too,
                once the conversation holds untrusted output (`[agent] when_tainted`). ConfigError for a name
                that no tool has.
            checkpointer: Keeps waiting runs over restarts, such as `agents.open_checkpointer(file)`.
        """
        from agentkd.agents import Recorder, clean_checkpointer
        from agentkd.tools import ToolBox, read_skill

        changes: dict[str, Any] = {}
        if instructions:
            changes["instructions"] = instructions
        if not recall:
            changes["recall"] = "off"
        skills = self.parts.skills()
        offered = [*tools, *self.parts.tools(), *([read_skill(skills)] if skills.names else [])]
        box = ToolBox(offered)
        names = _checked_names(interrupt_on, [spec.name for spec in box.tools])
        asks = self.settings.agent.when_tainted == "ask" and any(s.has_side_effects for s in box.tools)
        return self.parts.agent(
            model,
            lambda task: box,
            name=name,
            recaller=self.memory if recall else None,
            recorder=Recorder(self.ledger, self.hooks),
            scope=scope,
            changes=changes,
            interrupt_on=names,
            checkpointer=clean_checkpointer(checkpointer, self.parts.redact),
            when_tainted="ask" if asks else None,
        )

    def close(self) -> None:
        """Close the ledger and the index; safe to call twice."""
        self.parts.close()

    def __enter__(self) -> Self:
        """Return the workspace itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def _checked_names(interrupt_on: Iterable[str], tools: Sequence[str]) -> tuple[str, ...]:
    """Return the names; raises ConfigError for one that no tool has: its calls would run unasked."""
    if isinstance(interrupt_on, str):
        raise ConfigError(
            f"`interrupt_on` is the text {interrupt_on!r}", hint=f"give a list: [{interrupt_on!r}]"
        )
    names = tuple(interrupt_on)
    for name in names:
        if name not in tools:
            raise ConfigError(f"`interrupt_on` names `{name}`, which is no tool", hint=nearest(name, tools))
    return names
