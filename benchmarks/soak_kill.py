"""kill -9 over whole cycles: at every boundary of the journal, and at random instants; all must end the same.

    python benchmarks/soak_kill.py            # every boundary twice, 200 random instants
    python benchmarks/soak_kill.py --small    # every boundary once, 20 instants

An undisturbed cycle of a tiny random student gives the reference: dataset, checkpoint, promotion, retirement,
number of facts of every kind, files. Then one workspace is killed before and after every write of the journal
and every rename of a file or folder, one after the other, each run going on from the last. Others are killed
again and again after a random share of a cycle's time. Every second kill takes the training process too; the
others leave it an orphan. A soak that is killed goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
from measure import Cells, Row, at_least, children_cpu_seconds, publish
from soak_world import LIMIT_SECONDS, World, cycle, phase_at_work

KILLS = 8
"""Most kills of one cycle at random instants."""
JOURNAL = ("begin_cycle", "phase_start", "phase_done", "finish_cycle")


class Killer:
    """Kills its process at the first boundary that was not passed before, and notes which one that is.

    Boundaries lie before and after each write of the journal, and each rename in the cycle and its training.
    """

    def __init__(self, note: Path, *, with_trainer: bool) -> None:
        """Take the file to note in."""
        self.note, self.with_trainer = note, with_trainer
        note.write_text("", encoding="utf-8")

    def passed(self) -> list[str]:
        """Return the boundaries that killed a process so far."""
        return self.note.read_text(encoding="utf-8").splitlines()

    def meet(self, label: str) -> None:
        """Die here, unless that was done before."""
        if label in self.passed():
            return
        with self.note.open("a", encoding="utf-8") as note:
            note.write(f"{label}\n")
        if self.with_trainer:
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def boundaries(folder: Path, killer: Killer) -> Callable[[], int]:
    """Return a cycle that meets a killer before and after each write of its journal."""

    def work() -> int:
        from agentkd.ledger.cycle import Cycles

        for name in JOURNAL:
            _surround(Cycles, name, lambda arguments, name=name: f"{name} {_subject(arguments)}", killer.meet)
        return cycle(folder)()

    return work


def renames(killer: Killer) -> Callable[[], None]:
    """Return what lets a process, and the training process that it forks, meet a killer at renames too."""

    def install() -> None:
        _surround(os, "replace", lambda arguments: f"rename to {_plain(str(arguments[1]))}", killer.meet)

    return install


def _surround(
    owner: Any, name: str, label_of: Callable[[tuple[Any, ...]], str], meet: Callable[[str], None]
) -> None:
    whole = getattr(owner, name)

    def surrounded(*arguments: Any, **options: Any) -> Any:
        label = label_of(arguments)
        meet(f"before {label}")
        answer = whole(*arguments, **options)
        meet(f"after {label}")
        return answer

    setattr(owner, name, surrounded)


def _subject(arguments: tuple[Any, ...]) -> str:
    """Return the phase that a write of the journal is about."""
    named = [getattr(argument, "name", "") for argument in arguments[1:]] + [*arguments[2:3]]
    return next((str(name) for name in named if name), "")


def _plain(path: str) -> str:
    """Return the end of a path without what is counted or hashed in it."""
    return re.sub(r"[0-9a-f]{8,}|\d+", "#", "/".join(Path(path).parts[-2:]))


def killed_at_boundaries(world: World, name: str, *, with_trainer: bool) -> dict[str, Any]:
    """Kill one workspace at every boundary in turn; return the boundaries, and what differs at the end."""
    folder = world.workspace(name)
    killer = Killer(world.folder / f"{name}.boundaries", with_trainer=with_trainer)
    before = renames(killer) if with_trainer else lambda: None
    code, n = -signal.SIGKILL, -1
    while code == -signal.SIGKILL and n < len(killer.passed()):
        n = len(killer.passed())
        process = forked.start(boundaries(folder, killer), world.log(folder), before)
        code = process.wait(LIMIT_SECONDS) or process.kill()
    if code:
        raise SystemExit(f"a cycle in `{folder}` ended with {code}:\n{process.said()}")
    process.kill()
    return {"kills": killer.passed(), "differs": world.differs(folder)}


def killed_at_instants(world: World, number: int, seed: int, most: int) -> dict[str, Any]:
    """Kill one workspace up to `most` times at random instants; return the phases, and what differs."""
    folder, dice = world.workspace(f"instants-{number:03d}"), random.Random(f"{seed} {number}")
    kills, phase, last = list[str](), "start", None
    for turn in range(most):
        last = process = forked.start(cycle(folder), world.log(folder))
        code = process.wait(dice.uniform(0.02, 0.6) * world.seconds)
        if code:
            raise SystemExit(f"a cycle in `{folder}` ended with {code}:\n{process.said()}")
        phase = ""
        if code is None:
            process.kill(with_trainer=turn % 2 == 0)
            phase = forked.ask(lambda: phase_at_work(folder), world.folder / "phase.log")
        if not phase:
            break
        kills.append(phase)
    if phase:
        world.finish(folder)
    if last is not None:
        last.kill()
    return {"kills": kills, "differs": world.differs(folder)}


def main() -> int:
    """Soak and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tenth of the kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants")
    options = parser.parse_args()
    n_kills = 20 if options.small else 200
    name = "kill-small" if options.small else "kill"
    cells = Cells(name, seed=options.seed)
    world = World(name)
    print(f"a cycle: {world.cpu_seconds:.1f} CPU-s forked, {world.cpu_cold:.1f} with its imports")
    chains = {
        "with its trainer": cells.do(
            "group", lambda: killed_at_boundaries(world, "group", with_trainer=True)
        ),
    }
    if not options.small:
        chains["without its trainer"] = cells.do(
            "alone", lambda: killed_at_boundaries(world, "alone", with_trainer=False)
        )
    cycles: list[dict[str, Any]] = []
    while (left := n_kills - sum(len(done["kills"]) for done in cycles)) > 0:
        number = len(cycles)
        most = min(KILLS, left)
        done = cells.do(str(number), lambda n=number, m=most: killed_at_instants(world, n, options.seed, m))
        cycles.append(done)
        verdict = f"DIFFERS in {', '.join(done['differs'])}" if done["differs"] else "the same"
        print(f"cycle {number + 1}: killed in {', '.join(done['kills']) or 'nothing'}: {verdict}", flush=True)
    kills = [phase for each in cycles for phase in each["kills"]]
    n_boundaries = sum(len(chain["kills"]) for chain in chains.values())
    same_chains = sum(not chain["differs"] for chain in chains.values())
    same = sum(not each["differs"] for each in cycles)
    rows = [
        Row("kills at boundaries of journal and files", n_boundaries, n=len(chains)),
        at_least(
            "share of chains of such kills that end the same", same_chains / len(chains), 1.0, n=len(chains)
        ),
        at_least("kills at random instants", len(kills), n_kills, n=len(cycles)),
        at_least(
            "share of cycles killed at instants that end the same", same / len(cycles), 1.0, n=len(cycles)
        ),
        *(Row(f"kills in {phase}", kills.count(phase), n=len(kills)) for phase in sorted(set(kills))),
        Row("CPU seconds of a cycle", world.cpu_seconds),
        Row("CPU seconds of this run", children_cpu_seconds()),
    ]
    facts = {"seeds": {"instants": options.seed}, "model": "tiny", "reference": world.expected}
    code = publish(name, rows, {**facts, "boundaries": chains, "cycles": cycles})
    cells.clear()
    return code


if __name__ == "__main__":
    sys.exit(main())
