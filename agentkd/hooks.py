"""Typed hook calls: a plugin can refuse, reorder and notice, but neither stop nor change what calls it.

Every implementation gets its own copies of the arguments, answers within a time limit, and answers what the
hook's specification says; else a PluginError names it.
"""

from __future__ import annotations

import contextvars
import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pluggy

from agentkd import hookspecs
from agentkd.errors import AgentkdError, PluginError, of_the_disk

if TYPE_CHECKING:
    from agentkd.schema import Hit, Task

__all__ = ["HOOK_SECONDS", "Hooks", "blaming"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

HOOK_SECONDS = 300.0
"""How long a hook may take where no setting says otherwise."""

_HINT = "switch it off with `[plugins] block`, or report it to its author"


@contextmanager
def blaming(plugin: str, what: str) -> Iterator[None]:
    """Turn any stray exception of plugin code into a PluginError that names the plugin.

    A full or failing disk is no plugin's fault: that stays a StoreError.
    """
    try:
        yield
    except AgentkdError:
        raise
    except Exception as error:
        if disk := of_the_disk(error):
            raise disk from error
        raise PluginError(
            f"plugin `{plugin}` failed in {what}: {type(error).__name__}: {error}", hint=_HINT, plugin=plugin
        ) from error


class Hooks:
    """Typed hook calls: `hooks.ask(hookspecs.after_run, trajectory=t)`."""

    def __init__(self, manager: pluggy.PluginManager, *, seconds: float = HOOK_SECONDS) -> None:
        """Take the manager, and how long an implementation may take; 0 sets no limit."""
        self._manager = manager
        self._seconds = seconds

    def ask(self, spec: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> list[R]:
        """Call every plugin and return the answers that are not None (offer and notice hooks)."""
        answers = [self._answer(impl, spec, kwargs) for impl in self._impls(spec)]
        return [answer for answer in answers if answer is not None]

    def offers(
        self, spec: Callable[P, Iterable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> list[tuple[str, T]]:
        """Return (plugin, item) for all that the plugins offer, first registered first.

        Generators are read to their end here, so that what breaks inside one carries its plugin's name.
        """
        return [
            (impl.plugin_name, item)
            for impl in reversed(self._impls(spec))
            for item in self._answer(impl, spec, kwargs) or ()
        ]

    def offered_by(self, plugin: str, spec: Callable[[], Iterable[T]]) -> list[T]:
        """Return what one plugin offers."""
        found = [impl for impl in self._impls(spec) if impl.plugin_name == plugin]
        return [item for impl in found for item in self._answer(impl, spec, {})]

    def has(self, spec: Callable[..., Any]) -> bool:
        """Whether any plugin implements a hook."""
        return bool(self._impls(spec))

    def decide(self, spec: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the first answer that is not None (decide hooks)."""
        for impl in self._impls(spec):
            answer: R | None = self._answer(impl, spec, kwargs)
            if answer is not None:
                return answer
        return None

    def refusals(self, spec: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """Return the names of the plugins that answered False (veto hooks)."""
        return [impl.plugin_name for impl in self._impls(spec) if self._answer(impl, spec, kwargs) is False]

    def ranked(self, task: Task, hits: Sequence[Hit]) -> list[Hit]:
        """Return the hits as `rank_recalled` orders and thins them out; none is added or changed by it."""
        left = {hit.memory.id: hit for hit in hits}
        for answer in self.ask(hookspecs.rank_recalled, task=task, hits=hits):
            if answer is not None:
                wanted = dict.fromkeys(hit.memory.id for hit in answer)
                left = {id_: left[id_] for id_ in wanted if id_ in left}
        return list(left.values())

    def _impls(self, spec: Callable[..., Any]) -> list[pluggy.HookImpl]:
        """Return the implementations in the order in which they are called: last registered first."""
        return list(reversed(getattr(self._manager.hook, spec.__name__).get_hookimpls()))

    def _answer(self, impl: pluggy.HookImpl, spec: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
        plugin, hook = impl.plugin_name, spec.__name__
        returns = str(spec.__annotations__["return"])

        def work() -> Any:
            given = {name: copy.deepcopy(kwargs[name]) for name in impl.argnames}
            answer: Any = impl.function(**given)
            return list(answer or ()) if returns.startswith("Iterable") else answer

        answer = self._within(plugin, hook, work)
        if not _fits(returns, answer):
            raise PluginError(
                f"plugin `{plugin}` answered {_short(answer)} in hook `{hook}`, which takes `{returns}`",
                hint=_HINT,
                plugin=plugin,
            )
        return None if returns == "None" else answer

    def _within(self, plugin: str, hook: str, work: Callable[[], T]) -> T:
        """Work in a thread of its own, so that a hook that never comes back stops nobody."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                outcome.append(work())
            except BaseException as error:  # handed over to the waiting thread
                failure.append(error)

        if self._seconds:
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=context.run, args=(run,), name=f"agentkd-hook-{plugin}", daemon=True
            )
            thread.start()
            thread.join(self._seconds)
        else:
            run()
        if failure:
            raise _blamed(plugin, hook, failure[0]) from failure[0]
        if not outcome:
            raise PluginError(
                f"plugin `{plugin}` did not come back from hook `{hook}` within {self._seconds:g} s",
                hint=f"{_HINT}; `[plugins] hook_seconds` sets the limit",
                plugin=plugin,
            )
        return outcome[0]


def _blamed(plugin: str, hook: str, error: BaseException) -> BaseException:
    """Return the error with the plugin's name; one of ours keeps its class: a ceiling stays a ceiling."""
    if isinstance(error, KeyboardInterrupt):
        return error
    if isinstance(error, AgentkdError):
        named = copy.copy(error)
        if "plugin" not in error.context:
            named.message = f"plugin `{plugin}` failed in hook `{hook}`: {error.message}"
            named.context = {**error.context, "plugin": plugin}
        return named
    what = f"plugin `{plugin}` failed in hook `{hook}`: {type(error).__name__}: {error}"
    return of_the_disk(error) or PluginError(what, hint=_HINT, plugin=plugin)


def _fits(returns: str, answer: Any) -> bool:
    """Whether an answer is of the kind that a specification names; who asks checks the items of an offer."""
    if returns == "bool | None":
        return answer is None or isinstance(answer, bool)
    if returns == "Iterable[tuple[int, int, str]]":
        return all(_is_place(found) for found in answer)
    if returns == "Sequence[Hit] | None":
        from agentkd.schema import Hit

        is_list = isinstance(answer, Sequence) and not isinstance(answer, str)
        return answer is None or (is_list and all(isinstance(hit, Hit) for hit in answer))
    return True


def _is_place(found: Any) -> bool:
    """Whether an item is (start, end, kind)."""
    if not isinstance(found, tuple) or len(found) != 3:
        return False
    start, end, kind = found
    return isinstance(start, int) and isinstance(end, int) and isinstance(kind, str) and 0 <= start <= end


def _short(answer: Any) -> str:
    try:
        return f"{answer!r:.80}"
    except Exception:  # what a plugin made may not even print itself
        return f"a {type(answer).__name__}"
