"""One arm of the distillation benchmark: `kd_arm.py spec.json result.json gradient.npy`.

Takes the last states of a student and a teacher with one frozen head, computes a divergence and its
gradient by the student's states, and says how much memory and time that took beyond what it was given.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

BETA, TOP_K = 0.5, 20


class Problem:
    """States `[t, h]` of student and teacher and the head `[v, h]`, float32, from a seed."""

    def __init__(self, spec: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(spec["seed"])
        t, v, h = spec["tokens"], spec["vocabulary"], spec["width"]
        self.chunk: int = spec["chunk"]
        self.head = torch.randn(v, h, generator=generator).mul_(3 * h**-0.5)
        self.teacher = torch.randn(t, h, generator=generator)
        self.student = self.teacher + 0.5 * torch.randn(t, h, generator=generator)

    def parts(self) -> Iterator[slice]:
        """Yield the chunks."""
        for start in range(0, len(self.student), self.chunk):
            yield slice(start, start + self.chunk)

    def top(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the teacher's top ids and log-probabilities, `[t, k]`: what a cache holds."""
        ids, log_probs = [], []
        for part in self.parts():
            found = (self.teacher[part] @ self.head.T).log_softmax(-1).topk(TOP_K)
            ids.append(found.indices)
            log_probs.append(found.values)
        return torch.cat(ids), torch.cat(log_probs)


Work = Callable[[], tuple[float, torch.Tensor]]


def chunked(
    problem: Problem, loss_of: Callable[[torch.Tensor, slice], torch.Tensor]
) -> tuple[float, torch.Tensor]:
    """Sum a loss over chunks of logits, each differentiated at once: as the trainer does."""
    gradient, total = torch.zeros_like(problem.student), 0.0
    for part in problem.parts():
        states = problem.student[part].clone().requires_grad_()
        loss = loss_of(states @ problem.head.T, part)
        loss.backward()  # type: ignore[no-untyped-call]
        assert states.grad is not None
        gradient[part] = states.grad
        total += float(loss.detach())
    return total, gradient


def exact(problem: Problem, name: str) -> Work:
    """Return the definition in float64 through plain autograd, 16 positions at a time."""
    top = problem.top()[0] if name == "top-k" else None
    problem.head, problem.student = problem.head.double(), problem.student.double()
    teacher, n = problem.teacher.double(), len(problem.student)
    problem.chunk = 16

    def loss_of(logits: torch.Tensor, part: slice) -> torch.Tensor:
        q, p = logits.softmax(-1), (teacher[part] @ problem.head.T).softmax(-1)
        if top is not None:
            q, p = (torch.cat([x.gather(-1, top[part]), _rest(x, top[part])], -1) for x in (q, p))
            return (p * (p / q).log()).sum() / n
        m = BETA * p + (1 - BETA) * q
        return (BETA * (p * (p / m).log()) + (1 - BETA) * (q * (q / m).log())).sum() / n

    return lambda: chunked(problem, loss_of)


def _rest(probabilities: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    return probabilities.scatter(-1, top, 0).sum(-1, keepdim=True)


def ours_full(problem: Problem) -> Work:
    """Return our JSD formula on whole distributions, chunk by chunk, with a live teacher."""
    from agentkd.train.objectives.divergences import generalised_jsd

    n = len(problem.student)

    def loss_of(logits: torch.Tensor, part: slice) -> torch.Tensor:
        log_p = (problem.teacher[part] @ problem.head.T).log_softmax(-1)
        return generalised_jsd(log_p, logits.log_softmax(-1), BETA).sum() / n

    return lambda: chunked(problem, loss_of)


def ours_top(problem: Problem) -> Work:
    """Return our forward KL over a cached top 20 and the rest, as the objective computes it."""
    from agentkd.train.objectives.divergence import top_k_forward_kl

    ids, log_probs = problem.top()
    n = len(problem.student)

    def loss_of(logits: torch.Tensor, part: slice) -> torch.Tensor:
        return top_k_forward_kl(logits, ids[part], log_probs[part], torch.ones(len(logits)) / n)

    return lambda: chunked(problem, loss_of)


def trl_gkd(problem: Problem) -> Work:
    """Return TRL's experimental GKD loss: whole logits of student and teacher."""
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    def work() -> tuple[float, torch.Tensor]:
        states = problem.student.clone().requires_grad_()
        with torch.no_grad():
            taught = (problem.teacher @ problem.head.T)[None]
        labels = torch.zeros(1, len(states), dtype=torch.long)
        loss = GKDTrainer.generalized_jsd_loss(
            (states @ problem.head.T)[None], taught, labels, beta=BETA, num_items_in_batch=len(states)
        )
        loss.backward()
        assert states.grad is not None
        return float(loss.detach()), states.grad

    return work


def trl_chunked(problem: Problem) -> Work:
    """Return the fused loss of TRL's DistillationTrainer."""
    from trl.trainer import distillation_trainer

    def work() -> tuple[float, torch.Tensor]:
        states = problem.student.clone().requires_grad_()
        loss, *_ = distillation_trainer._chunked_divergence_loss(
            states[None], problem.teacher[None], problem.head, problem.head,
            torch.ones(1, len(states)), BETA, num_items_in_batch=len(states),
        )  # fmt: skip
        loss.backward()
        assert states.grad is not None
        return float(loss.detach()), states.grad

    return work


ARMS: dict[str, Callable[[Problem], Work]] = {
    "float64": lambda problem: exact(problem, "jsd"),
    "float64 top-k": lambda problem: exact(problem, "top-k"),
    "full": ours_full,
    "top-k": ours_top,
    "trl gkd": trl_gkd,
    "trl chunked": trl_chunked,
}


def _status(name: str) -> float:
    """Return a figure of /proc/self/status in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {name}: this benchmark needs Linux")


def main() -> None:
    """Run the arm of a spec."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(spec["threads"])
    warm = Problem({**spec, "tokens": 8, "vocabulary": 64})
    warm.chunk = 8
    ARMS[spec["arm"]](warm)()  # what imports and libraries take is not the loss's
    work = ARMS[spec["arm"]](Problem(spec))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins here
    before, started, wall = _status("VmRSS"), time.process_time(), time.perf_counter()
    loss, gradient = work()
    result = {
        "loss": loss,
        "cpu_seconds": time.process_time() - started,
        "seconds": time.perf_counter() - wall,
        "peak_mib": _status("VmHWM") - before,
    }
    np.save(sys.argv[3], gradient.double().numpy())
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
