"""Whose words a run holds: principal, tool and trust of every text, and what untrusted output has tainted.

Trust follows where a text comes from, never what it says: a filter over words can be talked past, a source
cannot. What a suite asks and answers is trusted, because its grader judges it; what the users of an agent
say, what its tools bring in and what a file claims is not, unless `[trust]` or the tool itself declares it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from agentkd.config import TrustSettings
from agentkd.schema import ADHOC, Correction, Heard, Step, Task, Trajectory, Value

__all__ = [
    "UNNAMED",
    "VOUCHING",
    "Outside",
    "RunTrust",
    "carried",
    "heard_after",
    "is_of_suite",
    "is_trusted_output",
    "is_vouched",
    "trust_of_run",
]

UNNAMED = "user:"
"""Principal of a request whose user nobody named."""
HEARD_CHARS = 64_000
"""Most characters of earlier tool output that a run keeps; of older output it keeps the tool's name."""
VOUCHING = ("person", "grader")
"""Sources of corrections that answer for what they accept; a judge or a tool gives an opinion."""


class Outside(Value):
    """Untrusted output of a tool."""

    step: int
    """Index of the step that called the tool, -1 for one before the run; what the model says later may
    repeat it."""
    number: int
    """Position of the result within the step."""
    tool: str
    """Name of the tool."""
    text: str
    """The output; empty where it is too old to be kept."""


class RunTrust(Value):
    """What is known of the sources of one run."""

    principal: str
    """Who asked: `suite:NAME`, `user:NAME` (empty for an unnamed one) or `import:FILE`."""
    is_trusted: bool
    """Whether the request is trusted."""
    is_verified: bool
    """Whether a grader here judged the run done; what a file claims does not count."""
    outside: tuple[Outside, ...] = ()
    """Untrusted output that came in, in order."""

    def is_tainted(self, step: int) -> bool:
        """Whether what the model said at a step (-1: in the end) may repeat untrusted output."""
        return any(step < 0 or found.step < step for found in self.outside)

    @property
    def is_clean(self) -> bool:
        """Whether nothing untrusted came in at all."""
        return self.is_trusted and not self.outside

    @property
    def sources(self) -> frozenset[str]:
        """The untrusted sources of the run: who asked, and each tool, whatever page it read."""
        named = set() if self.is_trusted else {self.principal}
        return frozenset(named | {f"tool:{found.tool}" for found in self.outside})

    def is_independent(self, others: Collection[str]) -> bool:
        """Whether the run shares no untrusted source with others; an unnamed user may be anybody."""
        own = self.sources
        is_anybody = UNNAMED in own or UNNAMED in others
        return not (own and others and is_anybody) and own.isdisjoint(others)

    @property
    def doubt(self) -> str:
        """Why the run's words do not count by themselves; empty where they do."""
        if self.principal.startswith("import:"):
            return f"its run was read from `{self.principal.removeprefix('import:')}`"
        if not self.is_trusted:
            user = self.principal.partition(":")[2]
            return f"it was asked by the user `{user}`" if user else "it was asked by an unnamed user"
        if self.outside:
            return f"its run read the output of the untrusted tool `{self.outside[0].tool}`"
        return ""


def trust_of_run(trajectory: Trajectory, settings: TrustSettings) -> RunTrust:
    """Say whose words a run holds."""
    suite = trajectory.task.suite
    is_suite = is_of_suite(trajectory.task, settings) and not trajectory.imported_from
    if trajectory.imported_from:
        principal = f"import:{trajectory.imported_from}"
    else:
        principal = f"user:{trajectory.scope.user}" if suite == ADHOC else f"suite:{suite}"
    return RunTrust(
        principal=principal,
        is_trusted=is_suite
        or (suite == ADHOC and settings.users == "trusted" and not trajectory.imported_from),
        is_verified=trajectory.success and not trajectory.imported_from,
        outside=(
            *_before(trajectory.heard, is_suite, settings),
            *(o for step in trajectory.steps for o in _outside(step, is_suite, settings)),
        ),
    )


def heard_after(*runs: Trajectory, also: Iterable[Heard] = ()) -> tuple[Heard, ...]:
    """Return what a model has heard of tools that goes on from runs, oldest first, each text once.

    The newest `HEARD_CHARS` characters are kept; of what is older the tool stays known, and so its taint.
    """
    heard: dict[Heard, None] = {}
    for run in runs:
        told = [
            Heard(tool=call.name, text=result.error or result.content, trust=result.trust, trajectory=run.id)
            for step in run.steps
            for call, result in zip(step.accepted_calls, step.results, strict=False)
            if result.error or result.content
        ]
        heard |= dict.fromkeys((*run.heard, *told))
    heard |= dict.fromkeys(also)
    kept: dict[Heard, None] = {}
    left = HEARD_CHARS
    for each in reversed(heard):
        left -= len(each.text)
        kept[each if left >= 0 else each.model_copy(update={"text": ""})] = None
    return tuple(reversed(kept))


def _before(heard: Sequence[Heard], is_suite: bool, settings: TrustSettings) -> Iterable[Outside]:
    for number, each in enumerate(heard):
        if not is_trusted_output(each.tool, each.trust, is_suite, settings):
            yield Outside(step=-1, number=number, tool=each.tool, text=each.text)


def _outside(step: Step, is_suite: bool, settings: TrustSettings) -> Iterable[Outside]:
    for number, (call, result) in enumerate(zip(step.accepted_calls, step.results, strict=False)):
        text = result.error or result.content
        if text and not is_trusted_output(call.name, result.trust, is_suite, settings):
            yield Outside(step=step.index, number=number, tool=call.name, text=text)


def is_of_suite(task: Task, settings: TrustSettings) -> bool:
    """Whether a task is one of a suite whose requests and tools count as trusted."""
    return task.suite != ADHOC and task.suite not in settings.outside_suites


def is_trusted_output(tool: str, declared: str, is_suite: bool, settings: TrustSettings) -> bool:
    """Whether what a tool brings in is trusted: as `[trust]` or the tool says, else as its suite is."""
    if tool in settings.outside_tools:
        return False
    if declared:
        return declared == "trusted"
    return is_suite or tool in settings.tools


def is_vouched(corrections: Iterable[Correction]) -> bool:
    """Whether a person or a grader of this workspace answers for what one of these accepts."""
    return any(c.source in VOUCHING and not c.imported_from for c in corrections)


_WORD = re.compile(r"\w+")
_RUN = 5  # words in a row that two texts do not share by chance
_FOREIGN = 3  # words that stand in untrusted output and in nothing trusted
_LONG = 4  # characters of a word that says something


def carried(text: str, outside: Sequence[Outside], trusted: Collection[str]) -> str:
    """Return the tool whose untrusted words a text carries on; empty where it carries none.

    A text does where it shares five words in a row with the output, or three longer words that stand in
    nothing trusted: a lesson cannot repeat an instruction, or name its target, with fewer. Output that is no
    longer kept may have held any words.
    """
    said = _words(text)
    known = [_words(each) for each in trusted]
    words, runs = {w for each in known for w in each}, {run for each in known for run in _runs(each)}
    own = set(_runs(said)) - runs
    for found in outside:
        theirs = _words(found.text) if found.text else said
        foreign = {w for w in set(said) & set(theirs) if len(w) >= _LONG} - words
        if len(foreign) >= _FOREIGN or not own.isdisjoint(_runs(theirs)):
            return found.tool
    return ""


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _runs(words: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(words[at:] for at in range(_RUN)), strict=False)
