"""The processes of a run: one, or as many as `torchrun` started; gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from ...errors import DeviceError, InputError
from ...pytorch.devices import choose_device

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

    def means(self, values: Sequence[float]) -> list[float]:
        """The means of numbers over all processes, in one exchange."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [total / self.size for total in tensor.tolist()]

    def gathered(self, value: int) -> list[int]:
        """A number of every process, in the order of their ranks."""
        if self.size == 1:
            return [value]
        table = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        table[self.rank] = value
        dist.all_reduce(table)
        return table.tolist()


ALONE = Workers()


@contextmanager
def joined_workers(device: str) -> Iterator[Workers]:
    """This process among those that `torchrun` started, or alone.

    Args:
        device: "cpu", "cuda" (each process takes the GPU of its local rank), "cuda:N", or "auto", which takes
            a GPU where there is one.

    Raises:
        InputError: another process of the run has gone, there are more processes than GPUs, the device has
            an unknown name, or `srun` has started processes that do not know of each other.
        DeviceError: there is no such device.
    """
    together = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    place = _device_of_rank(device) if together else _device(device)
    if place.type == "cuda":
        torch.backends.cudnn.benchmark = True  # patches have one size
    if not together:
        _check_started_alone()
        yield Workers(device=place)
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if place.type == "cuda":
        torch.cuda.set_device(place)
    backend = "nccl" if place.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    has_failed = False
    try:
        yield Workers(rank, size, place)
    except BaseException as error:
        has_failed = True
        traceback.clear_frames(error.__traceback__)  # what they hold of the group would hang when freed later
        if not isinstance(error, RuntimeError) or not _is_lost_connection(error):
            raise
        raise InputError(
            "Another process of the run has stopped; start the same command again: "
            "the run goes on from its last checkpoint."
        ) from None
    finally:
        if backend == "gloo" or not has_failed:  # NCCL would first wait for what others never send
            dist.destroy_process_group()


def _device(name: str) -> torch.device:
    """The device of a process that is alone; "auto" does without mps."""
    if name == "mps":
        raise DeviceError("Training has not been tried on mps; choose auto, cpu, cuda or cuda:N.")
    place = choose_device(name)
    return torch.device("cpu") if place.type == "mps" else place


def _device_of_rank(name: str) -> torch.device:
    """The device of one of several processes; on a GPU none opens that of another."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not name.startswith("cuda"):
        return _device(name)
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count > 0:
        raise InputError(
            f"{index + 1} processes or more on a machine with {count} GPUs; "
            "start torchrun with --nproc-per-node of at most the number of GPUs."
        )
    return choose_device(f"cuda:{index}")


def _check_started_alone() -> None:
    """Refuse to be one of the processes of `srun`, all of which would train the same run."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))  # absent from a batch script itself
    if tasks > 1:
        raise InputError(
            f"srun has started {tasks} processes that do not know of each other; start one on each node, as "
            "in srun --ntasks-per-node=1 torchrun --nnodes=$SLURM_NNODES --nproc-per-node=GPUS …"
        )


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether gloo or NCCL say that they cannot reach another process any more."""
    if isinstance(error, dist.DistError):
        return True
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL")
    return any(word in str(error) for word in words)
