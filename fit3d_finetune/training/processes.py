"""Several processes that train one backbone together, started by torchrun.

Every process has the whole backbone and takes its part of the samples of every step; gradients are summed over the
processes, after which all take the same step. The loss is that of one process with all samples: each part is weighted
by its share of what the loss is a mean of. torch's DistributedDataParallel would average the processes' own means
instead, which is another loss where parts are uneven.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fit3d_ns.common.console import CONSOLE, logger
from fit3d_ns.common.errors import InputError

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""For the others, which may have a day's targets to render; a process that ends is noticed at once."""


@dataclass(frozen=True)
class Processes:
    """This process among all that train together."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Among those of its machine."""

    @property
    def first(self) -> bool:
        """Whether it is the one that reads, writes and speaks for all."""
        return self.rank == 0

    def own(self, items: Sequence[T]) -> list[T]:
        """Its part of what all have to do."""
        return list(items[self.rank :: self.count])

    def sum_up(self, values: Tensor) -> Tensor:
        """Sums over all processes, in place, for all the same.

        Raises:
            InputError: another process has ended.
        """
        if self.count > 1:
            with _no_one_lost():
                dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return flag if self.count == 1 else bool(self.sum_up(torch.tensor(float(flag))) > 0)

    def from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give all the first one's values, in place."""
        if self.count > 1:
            with _no_one_lost():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def number_from_first(self, number: int) -> int:
        """The first one's."""
        value = torch.tensor(number)
        self.from_first([value])
        return int(value)

    def sum_up_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients over all processes; those that no process has stay None."""
        if self.count == 1:
            return
        device = parameters[0].device
        found = self.sum_up(torch.tensor([float(p.grad is not None) for p in parameters], device=device))
        used = [p for p, count in zip(parameters, found.tolist(), strict=True) if count > 0]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in used])
        self.sum_up(flat)
        for parameter, part in zip(used, flat.split([p.numel() for p in used]), strict=True):
            parameter.grad = part.view_as(parameter)

    @contextmanager
    def one_per_machine_first(self) -> Iterator[None]:
        """Let one process of every machine do something before the others do it, which find what it made."""
        if self.local_rank > 0:
            self._wait()
        yield
        if self.local_rank == 0:
            self._wait()

    def _wait(self) -> None:
        if self.count > 1:
            with _no_one_lost():
                dist.all_reduce(torch.zeros(1))


ALONE = Processes()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Those that torchrun started, by its environment variables; one alone without them.

    All but the first one keep quiet, but for warnings.

    Args:
        device: "cpu" or "cuda"; with "cuda" each process takes the GPU of its place on its machine.

    Raises:
        InputError: variables that are no numbers, or fewer GPUs than processes.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    try:
        rank, count, local = (int(os.environ[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{', '.join(names)} are not all numbers ({error}): start with torchrun, or unset them."
        ) from error
    if count == 1:
        yield ALONE
        return
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine has no GPU, as there are {torch.cuda.device_count()}: give "
                "--nproc-per-node of that many."
            )
        torch.cuda.set_device(local)
    # Flags and numbers are on the CPU, gradients where the backbone is.
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    if rank > 0:
        logger.setLevel(logging.WARNING)
        CONSOLE.quiet = True
    logger.info("%d processes train together", count)
    try:
        yield Processes(rank, count, local)
    finally:
        dist.destroy_process_group()


@contextmanager
def _no_one_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            "another process of this training has ended (see what it says above); the same command goes on from the "
            f"last checkpoint ({str(error).splitlines()[0]})."
        ) from error
