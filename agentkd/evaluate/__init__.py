"""Judging: paired figures over the same held-out tasks, the gate, suites from a file, and scorers.

Nothing here runs an agent: the trajectories come from elsewhere and are judged here.
"""

from __future__ import annotations

from agentkd.evaluate.checks import Evidence
from agentkd.evaluate.contamination import Contamination, Leak, find_leaks
from agentkd.evaluate.gate import gate, refuse
from agentkd.evaluate.paired import arm_result, baseline_result, compare, make_evaluation, without_tasks
from agentkd.evaluate.power import power_of, spent_alpha, tasks_needed
from agentkd.evaluate.scorer import CallsScorer, ContainsScorer, ExactScorer, RegexScorer
from agentkd.evaluate.student import make_student_report
from agentkd.evaluate.suite_jsonl import JsonlSettings, JsonlSuite, build_jsonl_suite
from agentkd.evaluate.table import Table, evaluation_table, interval_text

__all__ = [
    "CallsScorer",
    "ContainsScorer",
    "Contamination",
    "Evidence",
    "ExactScorer",
    "JsonlSettings",
    "JsonlSuite",
    "Leak",
    "RegexScorer",
    "Table",
    "arm_result",
    "baseline_result",
    "build_jsonl_suite",
    "compare",
    "evaluation_table",
    "find_leaks",
    "gate",
    "interval_text",
    "make_evaluation",
    "make_student_report",
    "power_of",
    "refuse",
    "spent_alpha",
    "tasks_needed",
    "without_tasks",
]
