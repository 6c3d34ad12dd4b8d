"""The loop as the demo runs it: does a cycle on real requests make the student measurably better?

    python benchmarks/loop.py                 # a demo cycle in benchmarks/.work, up to 20 minutes
    python benchmarks/loop.py --small         # fewer tasks; the bars of the full cycle are not asked
    python benchmarks/loop.py --from demo     # read a finished demo folder

Peers are the figures of the first probe of this task, made before the library was: a plain script with
the same model, data and split.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from measure import WORK, Row, above, at_least, publish

from agentkd.cycle.report import read_report
from agentkd.schema import ArmResult, CycleReport, Evaluation, Paired

DEMO = Path(__file__).parent.parent / "examples" / "demo" / "demo.py"
PROBE = {"base": 0.0, "base + memory": 0.18, "student": 0.345, "nearest neighbour copied": 0.105}
RIVALS = ("base", "base + memory", "nearest neighbour copied")
BAR_SUCCESS, BAR_SECONDS = 0.40, 1200.0


def run_demo(is_small: bool) -> Path:
    """Run the demo in a fresh folder and return it."""
    folder = WORK / ("loop-small" if is_small else "loop")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, str(DEMO), str(folder), *(["--small"] if is_small else [])], check=True, timeout=7200
    )
    return folder


def arm_like(evaluation: Evaluation, name: str) -> ArmResult | None:
    """Return the arm of a name; baselines are found by the first word, since suites name them."""
    word = name.split(maxsplit=1)[0] if name not in ("base", "base + memory", "student") else ""
    for arm in evaluation.arms:
        if arm.name == name or (word and arm.name.startswith(word)):
            return arm
    return None


def paired_with(evaluation: Evaluation, other: str) -> Paired | None:
    """Return the comparison of the student with another arm."""
    return next((p for p in evaluation.paired if p.ours == "student" and p.other == other), None)


def rows_of(report: CycleReport, is_small: bool) -> list[Row]:
    """Return the figures of a cycle; a small one shows them without the bars."""
    evaluation = report.evaluations[0]
    rows = []
    for arm in evaluation.arms:
        success, peer = (
            arm.success,
            next((v for k, v in PROBE.items() if arm_like(evaluation, k) is arm), None),
        )
        figures = {"peer": peer, "peer_name": "probe", "low": success.low, "high": success.high, "n": arm.n}
        metric = f"whole call right: {arm.name}"
        if arm.name == "student" and not is_small:
            rows.append(at_least(metric, success.value, BAR_SUCCESS, **figures))
        else:
            rows.append(Row(metric, success.value, **figures))
    for name in RIVALS:
        rival = arm_like(evaluation, name)
        paired = paired_with(evaluation, rival.name) if rival else None
        if paired is None:
            raise SystemExit(f"the report compares the student with no arm like `{name}`")
        difference = paired.difference
        metric = f"student minus {paired.other}"
        if is_small:
            rows.append(Row(metric, difference.value, low=difference.low, high=difference.high, n=paired.n))
        else:
            rows.append(
                above(metric, difference.value, difference.low, 0.0, high=difference.high, n=paired.n)
            )
    student, recalled = evaluation.arm("student"), evaluation.arm("base + memory")
    rows.append(
        Row(
            "prompt tokens per task: student", student.prompt_tokens, n=student.n,
            peer=recalled.prompt_tokens, peer_name="base + memory",
        )
    )  # fmt: skip
    wall = sum(phase.seconds for phase in report.phases)
    bar = {} if is_small else {"bar": f"<= {BAR_SECONDS:g}", "holds": wall <= BAR_SECONDS}
    rows.append(Row("wall seconds of the cycle", wall, **bar))
    rows.append(Row("CPU seconds of the cycle", sum(phase.cpu_seconds for phase in report.phases)))
    rows.extend(Row(f"wall seconds: {phase.name}", phase.seconds) for phase in report.phases)
    return rows


def main() -> int:
    """Run or read a demo cycle and publish its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="fewer tasks, without the bars")
    parser.add_argument("--from", dest="folder", type=Path, help="a finished demo folder to read")
    options = parser.parse_args()
    folder = options.folder or run_demo(options.small)
    report = read_report(folder)
    if not report.evaluations:
        raise SystemExit(f"the cycle in `{folder}` ended without an evaluation")
    evaluation = report.evaluations[0]
    facts = {
        "suite": evaluation.suite,
        "split": evaluation.split,
        "n": evaluation.n,
        "seeds": {"cycle": report.seed, "evaluation": evaluation.seed},
        "checkpoint": report.checkpoint,
        "promoted": bool(report.verdict and report.verdict.promote),
        "cycle_machine": report.machine,
        "versions": report.versions,
    }
    return publish("loop-small" if options.small else "loop", rows_of(report, options.small), facts)


if __name__ == "__main__":
    sys.exit(main())
