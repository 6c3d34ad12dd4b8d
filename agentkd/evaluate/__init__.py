"""Judging: paired figures over the same held-out tasks, the gate, suites from a file, and scorers.

Nothing here runs an agent: the trajectories come from elsewhere and are judged here.
"""

from __future__ import annotations

from agentkd.evaluate.gate import gate, refuse
from agentkd.evaluate.paired import arm_result, baseline_result, compare, make_evaluation
from agentkd.evaluate.scorer import CallsScorer, ContainsScorer, ExactScorer, RegexScorer
from agentkd.evaluate.suite_jsonl import JsonlSettings, JsonlSuite, build_jsonl_suite
from agentkd.evaluate.table import Table, evaluation_table, interval_text

__all__ = [
    "CallsScorer",
    "ContainsScorer",
    "ExactScorer",
    "JsonlSettings",
    "JsonlSuite",
    "RegexScorer",
    "Table",
    "arm_result",
    "baseline_result",
    "build_jsonl_suite",
    "compare",
    "evaluation_table",
    "gate",
    "interval_text",
    "make_evaluation",
    "refuse",
]
