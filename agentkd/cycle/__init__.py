"""The cycle: phases, their journal, the loop, its judgement and its report."""

from __future__ import annotations

from agentkd.cycle.judge import judge, probe_earlier
from agentkd.cycle.looks import look_number
from agentkd.cycle.loop import run_cycle
from agentkd.cycle.parts import Parts
from agentkd.cycle.report import latest_number, read_report, report_folder

__all__ = [
    "Parts",
    "judge",
    "latest_number",
    "look_number",
    "probe_earlier",
    "read_report",
    "report_folder",
    "run_cycle",
]
