"""Where and how precisely the network runs, and what is said when the memory does not suffice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ..errors import DeviceError, InputError, OutOfMemoryError
from ..system_memory import available_memory
from .tensor_arrays import array_of, tensor_of

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICE_NAMES = "auto, cpu, cuda, cuda:N or mps"
_OUT_OF_MEMORY = re.compile(
    r"out of memory|alloc_failed|not enough memory|(can't|cannot|could not|failed to|unable to) allocate"
    r"|bad[_ ]alloc|invalid buffer size|could not create a primitive(?! descriptor)"  # C++, Metal, oneDNN
    r"|unable to find an engine to execute|unable to find a valid cudnn algorithm",
    re.I,
)


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device to compute on; "auto" takes the first of cuda, mps and cpu that works.

    Raises:
        InputError: the name is not one of auto, cpu, cuda, cuda:N and mps.
        DeviceError: this machine or this PyTorch has no such device.
    """
    name = str(name).lower()
    if name == "auto":
        for kind in ("cuda", "mps", "cpu"):
            if _works(torch.device(kind)):
                return torch.device(kind)
        fault = _fault(torch.device("cpu"))
        raise DeviceError(f"PyTorch does not work on this machine ({fault}); install it anew.")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise InputError(f"Unknown device {name!r}; choose {DEVICE_NAMES}.")
    device = torch.device(name)
    if not _works(device):
        raise DeviceError(f"Device {name} does not work with this machine and PyTorch; choose cpu or auto.")
    return device


@dataclass(frozen=True)
class GraphicsCard:
    """A device beside the processor that can be computed on.

    Attributes:
        device: cuda:N or mps.
        title: the maker's name of it.
        memory_bytes: of the card, or what may be taken of the shared memory; 0 where PyTorch does not say.
    """

    device: str
    title: str
    memory_bytes: int


def graphics_cards() -> list[GraphicsCard]:
    """The graphics cards on which a tiny convolution runs."""
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    cards = [_cuda_card(device) for device in devices if _works(device)]
    if _works(torch.device("mps")):
        limit = getattr(torch.mps, "recommended_max_memory", int)  # absent before PyTorch 2.4
        cards.append(GraphicsCard("mps", "Apple GPU", limit()))
    return cards


def _cuda_card(device: torch.device) -> GraphicsCard:
    properties = torch.cuda.get_device_properties(device)
    return GraphicsCard(str(device), properties.name, properties.total_memory)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on a device; None where nothing says so.

    What PyTorch holds of a graphics card without using it counts as free.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return available_memory()  # a Mac shares it with its graphics processor


def _works(device: torch.device) -> bool:
    return _fault(device) is None


def _fault(device: torch.device) -> str | None:
    """Why what the networks do does not run on a tiny array; None where it does.

    Drivers, old GPUs, missing kernels and a PyTorch that does not fit numpy show only then. For Apple's GPUs
    PyTorch got convolutions first, and linear interpolation in three dimensions much later.
    """
    if not _is_available(device):
        return "there is no such device"
    try:
        image = tensor_of(np.ones((1, 1, 3, 3, 3), np.float32)).to(device)
        result = functional.conv_transpose3d(functional.conv3d(image, image), image)
        for mode in ("trilinear", "nearest"):
            result = functional.interpolate(result, scale_factor=2, mode=mode)
        return None if np.allclose(array_of(result), 27) else "its results are wrong"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]


def _is_available(device: torch.device) -> bool:
    """Whether PyTorch says so; `torch.mps` itself does not say in older versions."""
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu" or torch.cuda.is_available()


def choose_precision(device: torch.device, precision: str = "auto") -> torch.dtype:
    """The type that convolutions run in.

    "auto": float16 on CUDA from compute capability 7 on; bfloat16 on CPUs with instructions for it, where
    convolutions run 2.5 to 3 times faster; float32 elsewhere. Only the machine decides, so that runs repeat.

    Raises:
        InputError: the precision is not one of auto, float32, bfloat16 and float16, or the device lacks it.
    """
    if precision != "auto":
        if precision not in PRECISIONS:
            raise InputError(f"Unknown precision {precision!r}; choose from auto, {', '.join(PRECISIONS)}.")
        check_precision(device, precision)
        return PRECISIONS[precision]
    if device.type == "cuda":
        return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def check_precision(device: torch.device, precision: str) -> None:
    """Refuse bfloat16 on cards of NVIDIA before compute capability 8, for which cuDNN cannot convolve in it.

    PyTorch says that they have it, because it emulates the type.

    Raises:
        InputError: it is such a card.
    """
    if (
        precision == "bfloat16"
        and device.type == "cuda"
        and torch.cuda.get_device_capability(device) < (8, 0)
    ):
        raise InputError(
            f"{torch.cuda.get_device_name(device)} cannot convolve in bfloat16; choose the precision float16 "
            "or float32."
        )


def _cpu_has_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not public; absent from older PyTorch
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch, numpy or OpenVINO says that the memory is exhausted."""
    says_so = isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    return says_so or isinstance(error, MemoryError)


@contextmanager
def explained_memory_errors(device: torch.device) -> Iterator[None]:
    """Turn whatever PyTorch or numpy raise when the memory is exhausted into an `OutOfMemoryError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = "lower cache_bytes" if device.type == "cpu" else "lower cache_bytes or use the device cpu"
        raise OutOfMemoryError(f"Out of memory on {device}; close other programs, {advice}.") from error
