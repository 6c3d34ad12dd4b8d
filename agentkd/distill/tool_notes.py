"""The distiller `tool-notes`: how each tool is used, where it fails, and what mended the failures.

Everything is counted from the calls; no model is needed. Where the role `distiller` is filled it may word
the guideline, which then has to quote a call or an error that really happened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agentkd.config import TrustSettings
from agentkd.distill.ask import Asker, AskSettings, Finds, Refusal, read_json
from agentkd.distill.candidate import candidate
from agentkd.distill.evidence import Words, span_of
from agentkd.distill.finding import Finding, Rejection
from agentkd.distill.lesson import examine
from agentkd.distill.prompt import fill, load_prompt
from agentkd.distill.source import shorten
from agentkd.distill.tool_stats import Act, ToolStats, gather_stats
from agentkd.errors import ModelError
from agentkd.hf import call_text
from agentkd.protocols import Kit, Model
from agentkd.schema import Correction, Memory, Span, Trajectory, memory_id
from agentkd.trust import trust_of_run

__all__ = ["ToolNotesDistiller", "ToolNotesSettings", "build_tool_notes"]

_CONFIDENCE = 0.7
_SHOWN_CALLS = 6


class ToolNotesSettings(AskSettings):
    """`[distiller.tool-notes]`."""

    use_model: Literal["auto", "never", "always"] = "auto"
    """Whether the model of the role `distiller` words the guideline; `auto`: where the role is filled."""
    min_calls: int = Field(default=5, ge=1)
    """Calls of a tool that make a note worth it."""
    min_share: float = Field(default=0.8, gt=0.5, le=1.0)
    """Share of the accepted calls from which a value or a next tool counts as usual."""
    max_runs: int = Field(default=8, ge=1)
    """Runs that a note names as its evidence, mended failures first."""


class _Guideline(BaseModel):
    model_config = ConfigDict(extra="forbid")

    guideline: str = Field(min_length=8, max_length=800)
    quote: str = Field(min_length=1, max_length=600)


class ToolNotesDistiller(Finds):
    """Write one note per tool and suite from what was counted."""

    name = "tool-notes"

    def __init__(self, settings: ToolNotesSettings | None = None) -> None:
        self.settings = settings or ToolNotesSettings()
        self._asker = Asker(self.name, self.settings)

    def attempt(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterator[Finding]:
        """Yield a note per tool that was called often enough and of which there is something to say."""
        noted = self._noted(trajectories, kit.settings.trust)
        if not noted:
            return
        use = self.settings.use_model
        if use == "never" or (use == "auto" and not kit.settings.roles.distiller):
            for stats, facts in noted:
                yield self._note(stats, " ".join(facts), self._spans(stats), kit)
            return
        ask = partial(self._ask, model=self._asker.teacher(kit))
        for (stats, facts), said in self._asker.each(noted, ask, kit):
            yield from self._worded(stats, facts, said, kit)

    def _worded(
        self, stats: ToolStats, facts: list[str], said: _Guideline | Refusal | ModelError, kit: Kit
    ) -> Iterator[Finding]:
        """Yield the note in the model's words where its quote holds, else as it was counted."""
        runs = self._runs(stats)
        text, spans = " ".join(facts), self._spans(stats)
        if isinstance(said, (Refusal, ModelError)):
            yield self._asker.failure(runs, said)
        else:
            span = examine(self.name, said.guideline, said.quote, runs)
            if isinstance(span, Rejection):
                yield span
            else:
                text, spans = said.guideline.strip(), [span]
        yield self._note(stats, text, spans, kit)

    def _noted(
        self, trajectories: Sequence[Trajectory], trust: TrustSettings
    ) -> list[tuple[ToolStats, list[str]]]:
        """Return what is worth a note, once per suite and tool.

        A note names only some of the runs that were counted, and the provenance gate judges those. So runs
        that untrusted words came into are never counted together with others: where these show nothing,
        they give a note of their own, which waits.
        """
        found: dict[tuple[str, str], tuple[ToolStats, list[str]]] = {}
        for group in _by_trust(trajectories, trust):
            for suite in {t.task.suite for t in group}:
                for stats in gather_stats([t for t in group if t.task.suite == suite]):
                    is_enough = stats.n_calls >= self.settings.min_calls
                    if is_enough and (facts := self._facts(stats)):
                        found.setdefault((suite, stats.tool), (stats, facts))
        return [found[key] for key in sorted(found)]

    def _facts(self, stats: ToolStats) -> list[str]:
        """Return what is worth knowing of a tool, as sentences; nothing where it just works."""
        share = self.settings.min_share
        facts = []
        if errors := stats.frequent_errors():
            often = "often" if stats.error_rate >= 0.2 else "sometimes"
            facts.append(f"It {often} fails with: {'; '.join(errors)}.")
        facts.extend(stats.mended())
        if usual := stats.usual_values(share):
            facts.append(f"Usually {', '.join(f'`{name}` is {value!r}' for name, value in usual.items())}.")
        if after := stats.usual_next(share):
            facts.append(f"The next call is usually `{after}`.")
        if not facts:
            return []
        always = stats.always_set()
        if always:
            facts.insert(0, f"Set {', '.join(f'`{name}`' for name in always)} in every call.")
        return [f"`{stats.tool}`:", *facts]

    def _ask(self, noted: tuple[ToolStats, list[str]], *, model: Model) -> _Guideline | Refusal:
        stats, facts = noted
        calls = "\n".join(_failed_line(act) for act in stats.telling_acts()[:_SHOWN_CALLS])
        rate = f"{stats.n_calls} calls, {stats.n_errors} of them failed."
        slots = {
            "tool": stats.tool.replace("</", "< /"),
            "facts": "\n".join([rate, *facts[1:]]).replace("</", "< /"),
            "calls": _whole_lines(calls, self.settings.max_transcript_chars).replace("</", "< /"),
        }
        prompt = fill(load_prompt(self.name, self.settings.prompts), slots)
        return self._asker.ask(model, prompt, _Guideline.model_json_schema(), _read)

    def _runs(self, stats: ToolStats) -> list[Trajectory]:
        runs = {act.run.id: act.run for act in stats.telling_acts()}
        return list(runs.values())[: self.settings.max_runs]

    def _spans(self, stats: ToolStats) -> list[Span]:
        runs = {run.id for run in self._runs(stats)}
        acts = [act for act in stats.telling_acts() if act.run.id in runs][: self.settings.max_runs]
        return [_span(act) for act in acts]

    def _note(self, stats: ToolStats, text: str, spans: Sequence[Span], kit: Kit) -> Memory:
        """Return a note; one that says again what a later note had replaced is a new memory."""
        note = candidate(
            "tool-note",
            f"a call of `{stats.tool}` is due",
            text,
            trajectories=self._runs(stats),
            scope=kit.settings.memory.scope,
            origin=self.name,
            confidence=_CONFIDENCE,
            tools=stats.tool,
            spans=spans,
            extras={
                "tool": stats.tool,
                "calls": stats.n_calls,
                "errors": stats.n_errors,
                "mended": stats.n_mended,
            },
        )
        counted = f"{text} ({stats.n_calls} calls)"
        return note.model_copy(update={"id": memory_id(note.kind, note.when_to_use, counted, note.scope)})


def _by_trust(trajectories: Sequence[Trajectory], trust: TrustSettings) -> list[list[Trajectory]]:
    """Return clean runs and then the others, one group where the gate is off."""
    if not trust.gate:
        return [list(trajectories)]
    groups: dict[bool, list[Trajectory]] = {True: [], False: []}
    for run in trajectories:
        groups[trust_of_run(run, trust).is_clean].append(run)
    return [groups[True], groups[False]]


def _whole_lines(text: str, limit: int) -> str:
    kept: list[str] = []
    for line in text.splitlines():
        if sum(map(len, kept)) + len(kept) + len(line) > limit:
            break
        kept.append(line)
    return "\n".join(kept)


def _failed_line(act: Act) -> str:
    line = f"{shorten(call_text(act.call), 500)} -> {shorten(act.error or 'accepted', 300)}"
    return f"{line}; then accepted: {shorten(call_text(act.mended_by), 500)}" if act.mended_by else line


def _span(act: Act) -> Span:
    origin, text = ("tool", act.error) if act.error else ("model", call_text(act.call))
    return span_of(Words(act.run.id, origin, act.step, text))


def _read(text: str) -> _Guideline:
    return _Guideline.model_validate(read_json(text))


def build_tool_notes(settings: ToolNotesSettings, kit: Kit) -> ToolNotesDistiller:
    """Build the component `tool-notes`."""
    return ToolNotesDistiller(settings)
