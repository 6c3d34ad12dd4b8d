"""The cycle: phases, their journal, the loop and its report."""

from __future__ import annotations

from agentkd.cycle.loop import run_cycle
from agentkd.cycle.parts import Parts
from agentkd.cycle.report import latest_number, read_report, report_folder

__all__ = ["Parts", "latest_number", "read_report", "report_folder", "run_cycle"]
