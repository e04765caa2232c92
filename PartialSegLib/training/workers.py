"""The processes of a run: one, or as many as `torchrun` started; gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError

Key = tuple[int, int]

PATIENCE = timedelta(days=1)
"""How long processes wait for the leading one, which prepares cases and validates; deaths show at once."""


@dataclass(frozen=True)
class Workers:
    """This process among those of the run.

    Attributes:
        rank: number of this process; 0 writes files.
        size: how many there are.
        device: of this process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, through which gradients flow."""
        if self.size == 1:
            return tensor
        return all_reduce(tensor.contiguous())

    def summed_by_key(self, rows: Mapping[Key, Tensor], zero: Tensor) -> list[Tensor]:
        """Rows (2) with the same key added up over all processes, which may have different keys.

        Args:
            rows: of this process.
            zero: a scalar that rows missing here are made of.
        """
        if self.size == 1:
            return list(rows.values())
        gathered: list[list[Key]] = [[] for _ in range(self.size)]
        dist.all_gather_object(gathered, list(rows))
        keys = list(dict.fromkeys(key for some in gathered for key in some))
        if not keys:
            return []
        table = torch.stack([rows.get(key, zero.expand(2)) for key in keys])
        return list(self.summed(table))

    def parallel(self, module: nn.Module, has_unused: bool = False) -> nn.Module:
        """The module, so wrapped that its gradient becomes the mean over all processes.

        Args:
            module: with parameters that require gradients.
            has_unused: whether a step may leave some of these out.
        """
        if self.size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=has_unused)

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def mean(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return float(tensor) / self.size


ALONE = Workers()


@contextmanager
def joined_workers(device: str) -> Iterator[Workers]:
    """This process among those that `torchrun` started, or alone.

    Args:
        device: "cpu", "cuda" (each process takes the GPU of its local rank) or "cuda:N".

    Raises:
        InputError: another process of the run has gone, or there are more processes than GPUs.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Workers(device=torch.device(device))
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = torch.device(device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if place.index >= torch.cuda.device_count():
            raise InputError(
                f"{place.index + 1} processes or more on a machine with {torch.cuda.device_count()} GPUs; "
                "start torchrun with --nproc-per-node of at most the number of GPUs."
            )
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Workers(rank, size, place)
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise InputError(
            "Another process of the run has stopped; start the same command again: "
            "the run goes on from its last checkpoint."
        ) from None
    finally:
        dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether gloo or NCCL say that they cannot reach another process any more."""
    if isinstance(error, dist.DistError):
        return True
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL")
    return any(word in str(error) for word in words)
