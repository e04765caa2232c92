"""Runs a network on patches: device, engine, precision, memory layout, and the activation of its logits."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..model import Model
from ..networks import PartialLabelNetwork
from ..patches.feature_cache import Features, all_finite
from ..sentences import suggestion
from ..task import Task
from .calibration import calibration_patches
from .openvino_engine import OpenVinoEncoder, openvino_is_installed

INT8_ENGINE = "openvino-int8"
OPENVINO_ENGINES = ("openvino", INT8_ENGINE)
ENGINES = ("auto", "torch", *OPENVINO_ENGINES)
OPENVINO_WORK = 1e13  # weights times voxels of a patch: with less, compiling takes longer than it saves

logger = logging.getLogger(__name__)


class _SharedContext:
    """A setting of the whole process that threads share: the first one makes it, the last one undoes it.

    Args:
        make: returns the context manager of the setting.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._users = 0
        self._setting = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._setting.enter_context(self._make())
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._setting.close()


_repeatable_cudnn = _SharedContext(
    partial(torch.backends.cudnn.flags, enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
)


class NetworkRunner:
    """A model's network, copied to a device: `encode` a patch once, then `score` it for any task.

    Args:
        model: stays as it is.
        device: where to run.
        dtype: of the convolutions; where float16 or bfloat16 overflow, the patch is encoded again in float32.
        engine: of the expensive part: "torch", "openvino" (an optional package for CPUs), or "auto", which
            takes OpenVINO where it is installed, knows the network's operations and saves more than the
            seconds it needs to start. "openvino-int8" rounds convolutions to 8 bits; `dtype` is of the rest.

    Raises:
        InputError: an unknown engine, or one that cannot run this network here.
    """

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype, engine: str = "auto") -> None:
        self.device = device
        self.dtype = dtype
        self.inference = model.manifest.inference
        self._manifest = model.manifest
        self._is_int8 = engine == INT8_ENGINE
        network = copy.deepcopy(model.network)
        self.network: PartialLabelNetwork = network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.network.fold_weights()
        self._openvino: OpenVinoEncoder | None = None
        self._tries_openvino = self._wants_openvino(engine)
        if engine in OPENVINO_ENGINES:
            self._start_openvino()

    @property
    def engine(self) -> str:
        """What encodes patches: torch, or openvino with its version, and int8 where it rounds to 8 bits."""
        if self._openvino is None:
            return "torch"
        return f"openvino {self._openvino.version}{' int8' if self._is_int8 else ''}"

    @property
    def uses_openvino(self) -> bool:
        """Whether OpenVINO encodes patches, or will when the first one comes."""
        return self._tries_openvino or self._openvino is not None

    def encode(self, patch: Tensor) -> Features:
        """Task-free features of a patch (D, H, W)."""
        if self._tries_openvino:
            try:
                self._start_openvino()
            except InputError as error:
                logger.info("%s", error)
        batch = patch[None, None]
        if self._openvino is not None:
            features = self._openvino(batch)
            if all_finite(features):
                return features
        batch = batch.contiguous(memory_format=torch.channels_last_3d)
        with _repeatable_cudnn:
            if self.dtype != torch.float32:
                with torch.autocast(self.device.type, self.dtype):
                    features = self.network.forward_features(batch)
                if all_finite(features):
                    return features
                logger.warning("A patch overflowed in %s and is encoded in float32.", self.dtype)
            return self.network.forward_features(batch)

    def _wants_openvino(self, engine: str) -> bool:
        """Whether the first patch shall start OpenVINO.

        Raises:
            InputError: there is no such engine, or not on this device.
        """
        if engine not in ENGINES:
            raise InputError(f"Unknown engine {engine!r}; {suggestion(engine, list(ENGINES))}.")
        if engine in OPENVINO_ENGINES and self.device.type != "cpu":
            raise InputError(f"The engine {engine} runs on the cpu, not on {self.device}; choose torch.")
        if engine != "auto" or self.device.type != "cpu" or not openvino_is_installed():
            return False
        weights = sum(tensor.numel() for tensor in self.network.state_dict().values())
        return self.network.can_be_exported and weights * prod(self.inference.patch_size) >= OPENVINO_WORK

    def _start_openvino(self) -> None:
        self._tries_openvino = False
        patches = list(calibration_patches(self._manifest)) if self._is_int8 else []
        self._openvino = OpenVinoEncoder(self.network, self.inference.patch_size, self.dtype, patches)

    def score(self, features: Features, tasks: Mapping[int, Task]) -> Iterator[Tensor]:
        """What is blended for each of some tasks, given by their numbers.

        Yields:
            Scores (channels, D, H, W), or logits if the manifest blends these. The channels are those of the
            task's structures in their order; for softmax all channels of the head.
        """
        for task, logits in zip(tasks.values(), self._logits(features, list(tasks)), strict=True):
            wanted = logits[0]
            if self.inference.activation == "sigmoid":
                wanted = wanted[list(task.structures.values())]
            yield wanted if self.inference.blend == "logits" else self._activate(wanted)

    def _logits(self, features: Features, numbers: list[int]) -> Iterable[Tensor]:
        """Of each task; cuDNN's setting is left between them, when the caller computes or has gone away."""
        each = self._compute_logits(features, numbers)
        for _ in numbers:
            with _repeatable_cudnn:
                logits = next(each)
            yield logits

    def _compute_logits(self, features: Features, numbers: list[int]) -> Iterator[Tensor]:
        """The same, float32 unless the head holds most of the convolutions."""
        if not self.network.convolves_in_head or self.dtype == torch.float32:
            yield from self.network.forward_heads(features, numbers)
            return
        for number in numbers:
            with torch.autocast(self.device.type, self.dtype):
                logits = self.network.forward_head(features, number).float()
            yield logits if all_finite(logits) else self.network.forward_head(features, number)

    def structure_scores(self, blended: Tensor, task: Task) -> dict[str, Tensor]:
        """Per structure of a task the scores (D, H, W) that are compared with `threshold`.

        For sigmoid the probability, or the logit where logits were blended: nnU-Net, too, interpolates these.
        A clean-up on the network's grid may ask for probabilities. For softmax the lead, of the probability
        or the logit as they were blended, over the best other channel: both decide like argmax.
        """
        if self.inference.activation == "sigmoid":
            if self.inference.blend == "logits" and self.threshold(task):
                blended = blended.float().sigmoid()
            return dict(zip(task.structures, blended, strict=True))
        best, second = blended.topk(2, dim=0).values
        return {
            structure: blended[channel] - torch.where(blended[channel] == best, second, best)
            for structure, channel in task.structures.items()
        }

    def threshold(self, task: Task) -> float:
        """A voxel belongs to a structure when its score is greater."""
        probable = self.inference.blend == "probabilities" or bool(task.network_steps)
        return 0.5 if self.inference.activation == "sigmoid" and probable else 0.0

    def _activate(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.inference.activation == "sigmoid" else logits.softmax(dim=0)
