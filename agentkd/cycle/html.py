"""The readable report: one self-contained page from a template, every value escaped."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

from agentkd.cycle.plot import bars_with_intervals, line_plot
from agentkd.schema import CycleReport, Evaluation

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["render_html"]


def render_html(report: CycleReport) -> str:
    """Render a report as a page without scripts or outside resources."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from agentkd.evaluate import evaluation_table, interval_text, transfer_table

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["interval"] = interval_text
    environment.filters["marked"] = _marked
    template = environment.from_string(
        (files("agentkd.cycle") / "report.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        report=report,
        plots=[Markup(_arms_plot(e)) for e in report.evaluations],
        corrections=Markup(line_plot(_correction_curve(report), "corrections per task, run by run")),
        loss=Markup(line_plot(report.loss_curve, "training loss per step")),
        transfer=transfer_table(report.transfer),
        tables=[evaluation_table(e) for e in report.evaluations],
        retired=next((phase.output for phase in report.phases if phase.name == "retire"), {}),
        command=f"agentkd report {report.number} --recompute",
        seconds=sum(phase.seconds for phase in report.phases),
        cpu_seconds=sum(phase.cpu_seconds for phase in report.phases),
    )


def _correction_curve(report: CycleReport) -> tuple[tuple[int, float], ...]:
    return tuple((number, each.per_task) for number, each in enumerate(report.corrections, 1))


def _marked(text: str) -> Markup:
    """Escape a sentence and set what stands in backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _arms_plot(evaluation: Evaluation) -> str:
    rows = [(arm.title, arm.success) for arm in evaluation.arms]
    return bars_with_intervals(
        rows, f"share of tasks done on {evaluation.split}", strong=("student", "student + facts")
    )
