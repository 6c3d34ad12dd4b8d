"""The gate before 40 bad and 20 good candidates, noisy twins, and planted leaks.

    python benchmarks/gate.py              # makes the candidates that are missing, judges, publishes
    python benchmarks/gate.py --small      # a few of each kind
    python benchmarks/gate.py --minutes 30 # stops making candidates after so long; goes on next time
    python benchmarks/gate.py --publish    # publishes the candidates that are there
    python benchmarks/gate.py --rejudge    # asks the gate again about those that are there
    python benchmarks/gate.py --share 1/2  # makes every second one: the other half goes on another machine

Every candidate is SmolLM2-135M-Instruct, really trained on rows of four tools of `bfcl-live`'s training
split, measured on other requests of that split (never the suite's holdout), and judged by the judge of a
cycle as a first look while the base serves. Candidates lie in `.work/gate`, what the gate found of each in
`results/cells/gate` as soon as it is known: what is there is not made again under the same settings.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # waiting threads would take the cores of others
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from gate_candidates import BAD, GOOD, N_GOOD, Candidate, all_candidates
from gate_tasks import NAME
from gate_train import FOLDER, SETTINGS, audited, cell_key, evaluation_of, learn, made, workspace_of
from gate_trials import (
    N_LOOKS,
    N_TRIALS,
    NOT_BETTER,
    disguises,
    leaks_found,
    minhash_found,
    paired_flags,
    patient_share,
    promoted_share,
)
from measure import Row, at_least, at_most, kept, publish

from agentkd.config import GateSettings
from agentkd.cycle import judge
from agentkd.evaluate import power_of, tasks_needed
from agentkd.schema import Verdict, content_id

N_PLANTED = 200
ARMS = ("base", "base + memory", "student")
SMALL_GOOD, SMALL_BAD = 3, dict.fromkeys(BAD, 1)
SMALL_BAD["poisoned arguments"] = 2


@dataclass(frozen=True)
class Finding:
    """What became of one candidate; kept with the results, so that another machine can go on."""

    key: str
    """Hash of the settings that it was made and judged under."""
    promote: bool
    flags: tuple[str, ...]
    """Why not."""
    numbers: Mapping[str, float]
    """Wins, losses and level of the paired tests."""
    success: Mapping[str, Sequence[int]]
    """Tasks done, per arm, in one order."""
    cpu: float
    """CPU seconds."""


Judged = dict[Candidate, Finding]


def judge_key() -> str:
    """Return the hash of what decides every finding."""
    return content_id("cell", cell_key(), GateSettings())


def judged(candidate: Candidate, cell: dict[str, Any], again: bool = False) -> Finding:
    """Return what the gate says of a candidate; asked once, kept beside its cell."""
    file = FOLDER / "verdicts" / f"{candidate.name}.json"
    if file.is_file() and not again:
        verdict = Verdict.model_validate_json(file.read_text(encoding="utf-8"))
    else:
        # Exports say nothing about what was learnt, and cost as much as all else: one candidate is exported.
        exports = ["peft"] if candidate == Candidate(GOOD, 0) else []
        with workspace_of(gate={"exports": exports}) as workspace:
            verdict = judge(workspace.parts, cell["checkpoint"], "base", evaluation_of(cell))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(verdict.model_dump_json(indent=1), encoding="utf-8")
    names = ("n", "alpha", *(f"{side}:{rival}" for side in ("wins", "losses") for rival in ARMS[:2]))
    success = {arm: [int(result.success) for result in evaluation_of(cell).arm(arm).results] for arm in ARMS}
    numbers = {name: verdict.numbers[name] for name in names if name in verdict.numbers}
    return Finding(judge_key(), verdict.promote, verdict.flags, numbers, success, cell["cpu"])


def finding_of(candidate: Candidate, home: Path) -> Finding | None:
    """Return what was found of a candidate under the same settings, on this machine or on another.

    The gate's paired tests are asked anew of what was counted; the other checks stand as they were found.
    """
    file = home / f"{candidate.name}.json"
    facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if facts.get("key") != judge_key():
        return None
    others = [flag for flag in facts["flags"] if not flag.startswith(NOT_BETTER)]
    flags = (*(flag for rival in ARMS[:2] for flag in paired_flags(facts["numbers"], rival)), *others)
    return Finding(**{**facts, "flags": flags, "promote": not flags})


def keep(candidate: Candidate, finding: Finding, home: Path) -> None:
    """Write a finding beside the results, whole or not at all."""
    file = home / f"{candidate.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".tmp")
    aside.write_text(json.dumps(asdict(finding), indent=1) + "\n", encoding="utf-8")
    os.replace(aside, file)


def candidates_judged(
    wanted: Sequence[Candidate], home: Path, until: float, makes: bool, again: bool
) -> Judged:
    """Make and judge candidates until a moment; what is finished is only read."""
    found: Judged = {}
    there = [c for c in wanted if (FOLDER / "cells" / f"{c.name}.json").is_file()]
    for candidate in wanted:
        known = finding_of(candidate, home)
        if known is not None and not (again and candidate in there):
            found[candidate] = known
            continue
        if candidate not in there and (not makes or time.monotonic() > until):
            continue
        began = time.process_time()
        clean, card = learn()
        finding = judged(candidate, made(candidate, clean, card), again)
        keep(candidate, finding, home)
        found[candidate] = finding
        print(
            f"{candidate.name}: {'promoted' if finding.promote else 'refused'} {', '.join(finding.flags)} "
            f"[{time.process_time() - began:.0f} CPU-s]",
            flush=True,
        )
    return found


def rows_of_candidates(found: Judged, n_good: int, bad: Mapping[str, int]) -> list[Row]:
    """Return how many of each kind were promoted; a bar holds only where all of them were judged."""
    promoted = {kind: [one.promote for c, one in found.items() if c.kind == kind] for kind in (GOOD, *bad)}
    rows = [
        Row(
            f"bad, {kind}: promoted of {len(promoted[kind])} ({bad[kind]} planned)",
            float(sum(promoted[kind])),
        )
        for kind in bad
    ]
    wrong, right = [one for kind in bad for one in promoted[kind]], promoted[GOOD]
    is_whole = len(wrong) == sum(bad.values()) and len(right) == n_good
    share = fmean(right) if right else 0.0
    title = f"bad candidates promoted of {len(wrong)} ({sum(bad.values())} planned)"
    rows.append(Row(title, float(sum(wrong)), "0 of all planned", not any(wrong) and is_whole))
    title = f"share promoted of {len(right)} good candidates ({n_good} planned)"
    rows.append(Row(title, share, ">= 0.9 of all planned", share >= 0.9 and is_whole))
    half = GateSettings().alpha / 2  # what the gate asked for until November 2026, by a two-sided test
    passing = [
        one.promote and not any(paired_flags(one.numbers, rival, alpha=half) for rival in ARMS[:2])
        for candidate, one in found.items()
        if candidate.kind == GOOD
    ]
    rows.append(Row("the same at half the level, as of a two-sided test", fmean(passing) if passing else 0.0))
    return rows


def rows_of_power(found: Judged) -> list[Row]:
    """Return the power of the test for such candidates: what the design promises beside what happened."""
    good = [finding.numbers for candidate, finding in found.items() if candidate.kind == GOOD]
    rows = []
    for rival in ("base", "base + memory"):
        if not good:
            break
        n = round(fmean(numbers["n"] for numbers in good))
        win = fmean(numbers[f"wins:{rival}"] / numbers["n"] for numbers in good)
        loss = fmean(numbers[f"losses:{rival}"] / numbers["n"] for numbers in good)
        alpha = good[0]["alpha"]
        rows.append(Row(f"power of McNemar's test, the mean good candidate against {rival}",
                        power_of(n, win, loss, alpha), n=n))  # fmt: skip
        if win > loss:
            needed = tasks_needed(win, loss, alpha=alpha, power=0.9)
            rows.append(Row(f"tasks needed against {rival} for power 0.9", float(needed)))
    return rows


def rows_of_trials(found: Judged) -> list[Row]:
    """Return how often twins, weaker and stronger students pass."""
    good = [finding.success["student"] for c, finding in found.items() if c.kind == GOOD]
    skill = [fmean(task) for task in zip(*good, strict=True)] if good else [0.4] * 100
    settings = GateSettings()
    twin = promoted_share(skill, 0.0, settings, seed=1)
    rows = [
        at_most(f"noisy twin promoted, of {N_TRIALS} trials", twin, 0.05, n=len(skill)),
        at_most("one that is 10 points worse promoted", promoted_share(skill, -0.1, settings, seed=2), 0.0),
        at_most(
            f"one of {N_LOOKS} noisy twins in a row promoted", patient_share(skill, settings, seed=3), 0.05
        ),
    ]
    better = ((gain, promoted_share(skill, gain, settings, seed=4)) for gain in (0.1, 0.2, 0.3))
    rows += [Row(f"one that is {gain * 100:.0f} points better promoted", share) for gain, share in better]
    return rows


def rows_of_leaks() -> list[Row]:
    """Return how many of 200 planted tasks are found among real requests, copied and disguised."""
    with workspace_of() as workspace:
        groups = {task.group: task.prompt for task in workspace.parts.suite("bfcl-live").tasks("train")}
    dice = random.Random(7)
    distinct = sorted({prompt for prompt in groups.values() if len(prompt) > 20})  # one per near duplicate
    dice.shuffle(distinct)
    tasks = {f"task-{n}": text for n, text in enumerate(distinct[:N_PLANTED])}
    honest, near = distinct[N_PLANTED:], GateSettings().near_copy
    exact = [text.upper() + " !!" if n % 2 else text for n, text in enumerate(tasks.values())]
    _, copies = leaks_found(tasks, honest, exact, near)
    rows = [
        at_least("planted copies found", copies / len(tasks), 1.0, n=len(tasks)),
        Row(
            "honest tasks taken for leaks", leaks_found(tasks, honest, (), near)[0] / len(tasks), n=len(tasks)
        ),
    ]
    shares, peers = [], []
    for name, disguise in disguises().items():
        planted = [disguise(text, dice) for text in tasks.values()]
        share = leaks_found(tasks, honest, planted, near)[0] / len(tasks)
        peer = minhash_found(tasks, honest, planted)[0]
        shares.append(share)
        peers.append(peer)
        rows.append(
            Row(f"disguised: {name}", share, peer=peer, peer_name="MinHash, 128 hashes", n=len(tasks))
        )
    rows.append(at_least("planted disguised ones found", fmean(shares), 0.95, n=len(tasks) * len(shares),
                         peer=fmean(peers), peer_name="MinHash, 128 hashes"))  # fmt: skip
    return rows


def rows_of_audits() -> list[Row]:
    """Return how many sets of rows the row checks alone refuse: spoilt ones, and clean ones by mistake."""
    clean, _ = learn()
    settings = GateSettings()

    def refused(kind: str, n: int) -> float:
        audits = audited([Candidate(kind, number) for number in range(n)], clean)
        return fmean(
            len(a.unfounded) > settings.max_unfounded * a.n_grounded
            or len(a.refuted) > settings.max_refuted * a.n_regraded
            for a in audits
        )

    poisoned, n = "poisoned arguments", BAD["poisoned arguments"]
    return [
        at_least(
            "sets of rows with 10 % poisoned arguments refused by row checks", refused(poisoned, n), 1.0, n=n
        ),
        at_most("clean sets of rows refused by row checks", refused(GOOD, N_GOOD), 0.0, n=N_GOOD),
    ]


def facts(found: Judged) -> dict[str, Any]:
    """Return what a reader must know to judge the figures."""
    flags: dict[str, dict[str, int]] = {}
    for candidate, finding in found.items():
        for flag in finding.flags:
            kind = flags.setdefault(candidate.kind, {})
            kind[flag] = kind.get(flag, 0) + 1
    success = {
        candidate.name: [fmean(finding.success[arm]) for arm in ARMS] for candidate, finding in found.items()
    }
    return {
        "actor": "SmolLM2-135M-Instruct",
        "tasks": f"{NAME}: requests of bfcl-live's train split for four tools; the holdout was not touched",
        "judge": "agentkd.cycle.judge, default [gate], first look; one candidate is exported; no arm "
        "`student + memory`",
        "settings": SETTINGS,
        "flags_by_kind": flags,
        "success": success,
    }


def main() -> int:
    """Make, judge, publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--rejudge", action="store_true")
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--share", default="1/1", metavar="K/N")
    options = parser.parse_args()
    n_good, bad = (SMALL_GOOD, SMALL_BAD) if options.small else (N_GOOD, BAD)
    until = time.monotonic() + 60 * options.minutes
    name = "gate-small" if options.small else "gate"
    wanted, makes = all_candidates(n_good, bad), not options.publish
    share, n_shares = (int(part) for part in options.share.split("/"))
    home = FOLDER / "findings" if options.small else kept("gate")  # a small run measures by itself
    found = candidates_judged(wanted[share - 1 :: n_shares], home, until, makes, options.rejudge)
    if n_shares > 1:
        return 0  # what is there of all shares is published without one
    rows = [
        *rows_of_candidates(found, n_good, bad),
        *rows_of_power(found),
        *rows_of_audits(),
        *rows_of_trials(found),
        *rows_of_leaks(),
    ]
    return publish(name, rows, facts(found))


if __name__ == "__main__":
    raise SystemExit(main())
