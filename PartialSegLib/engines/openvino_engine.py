"""OpenVINO as an engine for the expensive part of a network on a CPU; an optional package.

It lays channels out in blocks of 16 and fuses normalisations with what follows, so wide networks run up to
1.5 times as fast as in PyTorch. The heads stay in PyTorch.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..networks import PartialLabelNetwork
from ..patches.feature_cache import Features, feature_tensors, map_tensors
from ..pytorch.devices import is_out_of_memory
from ..pytorch.tensor_arrays import array_of, tensor_of
from .openvino_int8 import quantize_convolutions

PRECISION_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def openvino_is_installed() -> bool:
    """Whether this Python has the package; nothing is imported."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoEncoder:
    """A network's `forward_features`, compiled for one patch size; takes some seconds to make.

    Args:
        network: on the CPU, in float32; stays as it is and is not needed afterwards.
        patch_size: voxels (z, y, x).
        dtype: of the convolutions.
        calibration: patches (D, H, W) that resemble what will come; with any, convolutions are done in 8-bit
            integers and `dtype` is that of the rest.

    Raises:
        InputError: OpenVINO is not installed, does not load, or cannot run the network here.
    """

    def __init__(
        self,
        network: PartialLabelNetwork,
        patch_size: Sequence[int],
        dtype: torch.dtype,
        calibration: Iterable[Tensor] = (),
    ) -> None:
        if not openvino_is_installed():
            raise InputError(
                "The engine openvino needs the package openvino; install it with pip install openvino, "
                "or choose the engine torch."
            )
        does_not_load = "OpenVINO is installed but does not load ({})"
        with _refused(f"{does_not_load}; install it anew or choose the engine torch."):
            import openvino

            self.version = str(openvino.__version__).split("-")[0]
        cannot_run = f"OpenVINO {self.version} cannot run {type(network).__name__}"
        with _refused(f"{cannot_run}; choose the engine torch."):
            self._request = _compile(_FlatFeatures(network), patch_size, dtype, calibration)
        smallest = torch.zeros(1, 1, *(2 * step for step in network.patch_multiple))
        self._nesting = network.forward_features(smallest)

    def __call__(self, batch: Tensor) -> Features:
        """Task-free features of patch (1, 1, D, H, W), float32."""
        outputs = self._request.infer([array_of(batch.contiguous())])
        tensors = iter([tensor_of(outputs[number]) for number in range(len(outputs))])
        return map_tensors(lambda _: next(tensors), self._nesting)


@contextmanager
def _refused(sentence: str) -> Iterator[None]:
    """Turn what OpenVINO raises, each version its own, into an `InputError`; {} is where the reason goes."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(sentence.format(reason)) from error


def _compile(
    module: nn.Module, patch_size: Sequence[int], dtype: torch.dtype, calibration: Iterable[Tensor]
) -> Any:
    """What runs a module on patches of a size."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    converted = _convert(module, torch.zeros(1, 1, *patch_size))
    if patches := [array_of(patch[None, None].contiguous()) for patch in calibration]:
        quantize_convolutions(converted, patches, settings)
    return openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()


def _convert(module: nn.Module, patch: Tensor) -> Any:
    """A module as an OpenVINO model, without `openvino.convert_model`, which reports its use to the maker."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with _without_remarks(), torch.no_grad():
        exported = torch.export.export(module, (patch,), strict=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchFXPythonDecoder.from_exported_program(exported)  # must outlive the conversion
        return frontend.convert(frontend.load(decoder))


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep to themselves what both packages say about their own code, partly through the root logger."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addFilter(_drop)
    root.addHandler(handler)  # without any, logging.warning would install one for good
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(handler)
        root.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False


class _FlatFeatures(nn.Module):
    """A network's features as a plain tuple of tensors."""

    def __init__(self, network: PartialLabelNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, patch: Tensor) -> tuple[Tensor, ...]:
        return tuple(feature_tensors(self.network.forward_features(patch)))
