"""Judging: paired figures over the same held-out tasks, the gate, suites from a file, and scorers.

Nothing here runs an agent: the trajectories come from elsewhere and are judged here.
"""

from __future__ import annotations

from agentkd.evaluate.ablation import Ablation
from agentkd.evaluate.backdoor import Backdoor, BackdoorSettings, Suspect, find_suspects
from agentkd.evaluate.calibration import Calibration, CalibrationSettings, expected_calibration_error
from agentkd.evaluate.canary import Canary
from agentkd.evaluate.check import Check
from agentkd.evaluate.contamination import Contamination, Leak, find_leaks
from agentkd.evaluate.difference import Difference, DifferenceSettings
from agentkd.evaluate.evidence import Evidence, ExportParity, RowAudit
from agentkd.evaluate.gate import gate, refuse
from agentkd.evaluate.hacking import Course, Hacking, HackingAlarm, find_hacking, read_course
from agentkd.evaluate.paired import (
    arm_result,
    baseline_result,
    compare,
    make_evaluation,
    within,
    without_tasks,
)
from agentkd.evaluate.place import Cell, Cluster, decide_place
from agentkd.evaluate.power import power_of, spent_alpha, tasks_needed
from agentkd.evaluate.provenance import Provenance, ProvenanceSettings
from agentkd.evaluate.scorer import CallsScorer, ContainsScorer, ExactScorer, RegexScorer
from agentkd.evaluate.statistics import paired_bootstrap
from agentkd.evaluate.student import make_student_report
from agentkd.evaluate.suite_jsonl import JsonlSettings, JsonlSuite, build_jsonl_suite
from agentkd.evaluate.table import Table, evaluation_table, interval_text, transfer_table

__all__ = [
    "Ablation",
    "Backdoor",
    "BackdoorSettings",
    "Calibration",
    "CalibrationSettings",
    "CallsScorer",
    "Canary",
    "Cell",
    "Check",
    "Cluster",
    "ContainsScorer",
    "Contamination",
    "Course",
    "Difference",
    "DifferenceSettings",
    "Evidence",
    "ExactScorer",
    "ExportParity",
    "Hacking",
    "HackingAlarm",
    "JsonlSettings",
    "JsonlSuite",
    "Leak",
    "Provenance",
    "ProvenanceSettings",
    "RegexScorer",
    "RowAudit",
    "Suspect",
    "Table",
    "arm_result",
    "baseline_result",
    "build_jsonl_suite",
    "compare",
    "decide_place",
    "evaluation_table",
    "expected_calibration_error",
    "find_hacking",
    "find_leaks",
    "find_suspects",
    "gate",
    "interval_text",
    "make_evaluation",
    "make_student_report",
    "paired_bootstrap",
    "power_of",
    "read_course",
    "refuse",
    "spent_alpha",
    "tasks_needed",
    "transfer_table",
    "within",
    "without_tasks",
]
