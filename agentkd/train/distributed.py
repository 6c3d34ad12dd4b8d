"""Several processes, one training: `torchrun -m agentkd.train spec.json` with the same job.

The rows of a step are dealt out so that every process has about as many tokens to compute. Terms are divided
by the weight sum of the whole step before anything is added up, so the sum of the processes' gradients is the
gradient of one process. The adapter and its optimiser are the same everywhere; rank 0 alone writes files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from agentkd.errors import ConfigError

__all__ = ["World", "is_main_process", "open_world", "shard", "take_gpu"]

_LONGEST_WAIT = timedelta(hours=24)  # rank 0 may compute a teacher's signals while the others wait

Item = TypeVar("Item")


def is_main_process() -> bool:
    """Whether this process speaks and writes for all; asked of the environment that torchrun sets."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class World:
    """The processes of one training; without torchrun this one alone."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """Number of processes."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def device(self, device: str) -> str:
        """Return this process's own device where `device` is CUDA in general."""
        is_shared = device == "cuda" and self.size > 1
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if is_shared else device

    def reseed(self, seed: int, step: int) -> None:
        """Let what several processes draw in a step (dropout) follow from seed, step and process alone.

        So they draw unlike, and a training that goes on from a save, which holds the state of one process,
        draws what it would have drawn. One process alone goes on with its own state.
        """
        if self.size > 1:
            digest = hashlib.sha256(f"{seed}/{step}/{self.rank}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:7], "big"))

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let rank 0 go first: what it computes and stores, the others find."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def any(self, is_true: bool) -> bool:
        """Whether it is true in any process; all get the same answer."""
        return any(self._gathered(is_true))

    def first(self, value: Item) -> Item:
        """Return the value of the first process in all of them."""
        found: Item = self._gathered(value)[0]
        return found

    def sum_terms(self, terms: Mapping[str, float]) -> dict[str, float]:
        """Return the sum of each term over the processes."""
        total: dict[str, float] = {}
        for part in self._gathered(dict(terms)):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; a missing one counts as zero."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        torch.distributed.all_reduce(flat)
        start = 0
        for parameter in parameters:
            part = flat[start : start + parameter.numel()]
            if parameter.grad is not None:
                parameter.grad.copy_(part.view_as(parameter))
            start += parameter.numel()

    def _gathered(self, value: Any) -> list[Any]:
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found


def take_gpu(device: str) -> None:
    """Let all that asks CUDA in general (memory, clocks, random numbers) ask the GPU that `device` numbers.

    Raises ConfigError where this machine has no such GPU; does nothing for a device without a number.
    """
    if not device.startswith("cuda:"):
        return
    if torch.device(device).index >= (n := torch.cuda.device_count()):
        raise ConfigError(
            f'`[train] device = "{device}"` is no GPU of this machine, where torch finds {n}',
            hint="number those that `nvidia-smi` lists from 0, or set `auto`",
            key="train.device",
        )
    torch.cuda.set_device(device)


@contextmanager
def open_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun or `accelerate launch` started; alone without them.

    `device` is the setting: `cpu` talks over gloo; CUDA over NCCL, each process on its own GPU. Raises
    ConfigError for a GPU that is not there.
    """
    take_gpu(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    has_gpu = device != "cpu" and torch.cuda.is_available()
    if has_gpu and ":" not in device:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("nccl" if has_gpu else "gloo", timeout=_LONGEST_WAIT)
    try:
        yield World(torch.distributed.get_rank(), size)
    finally:
        torch.distributed.destroy_process_group()


def shard(model: Any) -> None:
    """Split the frozen weights of every decoder layer over the processes (FSDP2).

    Each layer's weights are gathered when it runs, forward and backward, and given back after. The adapter,
    the embeddings and the head stay whole in every process.
    """
    from torch.distributed.fsdp import fully_shard

    from agentkd.train.model import decoder_layers

    for layer in decoder_layers(model):
        own = {parameter for parameter in layer.parameters() if parameter.requires_grad}
        # FSDP keeps the weights of a root whole after its forward pass, and every layer is a root here
        fully_shard(layer, reshard_after_forward=True, ignored_params=own)
