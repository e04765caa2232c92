"""A model and an image that stay; where the memory runs out, a smaller session takes over."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from ..errors import Cancelled, DeviceError, InputError, OutOfMemoryError
from ..inference.region_selection import CoarsePass
from ..manifest import Manifest
from ..model import Model
from ..protocol import LoadModel
from ..pytorch.devices import choose_device, choose_precision
from ..session import InferenceSession
from ..volume import Volume

T = TypeVar("T")
Warn = Callable[[str], object]

logger = logging.getLogger(__name__)


class WarmSession:
    """Makes its `InferenceSession` when one is needed, and again after it was lost.

    Out of memory, it tries again without keeping features, then on the CPU, and stays there until the image
    changes.

    Args:
        model: from `load_model`.
        options: how to run it.
        coarse: the model that looks first, from `load_model`; None where the options name none.

    Raises:
        InputError: unknown device or precision.
        DeviceError: the device is missing.
    """

    def __init__(self, model: Model, options: LoadModel, coarse: Model | None = None) -> None:
        self.model = model
        self.options = options
        self._coarse = coarse
        chosen = choose_device(options.device)
        choose_precision(chosen, options.precision)
        self._device = str(chosen) if options.device == "auto" else options.device
        budgets = (options.cache_bytes, 0)
        self._ways = list(
            dict.fromkeys((place, budget) for place in (self._device, "cpu") for budget in budgets)
        )
        self._way = 0
        self._session: InferenceSession | None = None
        self._image: tuple[Volume, bool | None] | None = None

    def serves(self, packages: Sequence[tuple[Path, Manifest]], options: LoadModel) -> bool:
        """Whether its models are these packages, unchanged since they were loaded, with these options.

        Args:
            packages: folders and manifests: of the model, and of the coarse one if there is one.
            options: how to run them; how they name the packages does not matter.
        """
        loaded = [(one.folder, one.manifest) for one in (self.model, self._coarse) if one is not None]
        named = dataclasses.replace(options, path=self.options.path, region_from=self.options.region_from)
        return (list(packages), named) == (loaded, self.options)

    def set_image(self, volume: Volume, crop_to_body: bool | None, warn: Warn) -> None:
        """Replace the image; there is none when this fails.

        Raises:
            InputError: voxels are NaN or infinite.
            OutOfMemoryError: even the CPU has not enough.
        """
        self.forget_image()
        if self._way:  # the next image may be a smaller one
            self.release()
            self._way = 0
        try:
            self.run(lambda session: session.set_image(volume, crop_to_body, check=False), warn)
        except BaseException:
            self.forget_image()
            raise
        self._image = volume, crop_to_body

    def forget_image(self) -> None:
        """Drop the image and its features."""
        self._image = None
        if self._session is not None:
            self._session.reset_image()

    def release(self) -> None:
        """Give the memory of the device back; model and image stay, and the next `run` starts anew."""
        self._session = None
        gc.collect()
        with contextlib.suppress(RuntimeError):  # a GPU that has failed fails again here
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def run(self, work: Callable[[InferenceSession], T], warn: Warn) -> T:
        """Do something with the session; when memory runs out, again with a smaller one.

        Args:
            work: begins anew each time.
            warn: called with a sentence before it does.

        Returns:
            What `work` returns.

        Raises:
            OutOfMemoryError: even the CPU has not enough; the next `run` begins with the first session again.
        """
        while True:
            try:
                return work(self._prepared_session())
            except (OutOfMemoryError, MemoryError) as error:
                logger.info("%s", error)
            except (Cancelled, DeviceError, InputError):
                raise
            except Exception:
                self._session = None  # nobody knows in which state it is
                raise
            self.release()  # outside the handler: a traceback holds on to tensors
            self._step_down(warn)

    def _prepared_session(self) -> InferenceSession:
        if self._session is None:
            session = self._open(*self._ways[self._way])
            if self._image is not None:
                session.set_image(*self._image, check=False)
            self._session = session
        return self._session

    def _open(self, device: str, cache_bytes: int | None) -> InferenceSession:
        options = self.options
        precision = options.precision
        if device != self._device and precision != "float32":
            precision = "auto"  # what suits a GPU may not suit a CPU
        return InferenceSession(
            self.model,
            device,
            cache_bytes,
            overlap=options.overlap,
            mirror=options.mirror,
            precision=precision,
            engine=options.engine,
            selection=options.selection,
            skip_air=options.skip_air,
            region_from=None if self._coarse is None else CoarsePass(self._coarse, effort=options.effort),
        )

    def _step_down(self, warn: Warn) -> None:
        device, _ = self._ways[self._way]
        if self._way + 1 == len(self._ways):
            self._way = 0
            raise OutOfMemoryError(f"Out of memory on {device}, even without keeping features.")
        self._way += 1
        changed = self._ways[self._way][0] != device
        how = "on the cpu, which takes longer" if changed else "without keeping features"
        warn(f"Out of memory on {device}; trying again {how}.")
