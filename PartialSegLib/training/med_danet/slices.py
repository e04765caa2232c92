"""Slices with labels of all pixels, for Med-DANet: where they come from, in what order, and how they vary.

Wang et al.: Med-DANet, ECCV 2022, section 4.1: random cropping, mirroring and intensity shifts, in training
of the bank and of the decision network alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, default_collate

from ...files.json_fields import require
from ...manifest import Preprocessing, Task
from ...phantom import STRUCTURE_TISSUES, Phantom, make_phantom
from ...sentences import suggestion
from ..loop.data_workers import loaded
from ..loop.workers import ALONE, Workers
from .config import PhantomConfig, SliceBankConfig

PHANTOM_ORIENTATION = "SAR"
ORDER, VARIATION = 0, 1  # streams of random numbers beside each other


class Slice(NamedTuple):
    """One slice, or with one more axis in front a batch of them.

    Attributes:
        image: (C, H, W) float32, normalised.
        labels: (H, W) int64, class of each pixel; 0 is background.
    """

    image: Tensor
    labels: Tensor


class SliceSource(Protocol):
    """Where slices come from; each call for an index gives the same slice, in every process.

    Slices have the pixel size of the network's grid and may differ in height and width.
    """

    def __len__(self) -> int:
        """Number of slices of all cases."""
        ...

    def __getitem__(self, index: int) -> Slice:
        """Slice number `index`."""
        ...


class PhantomSlices:
    """The axial slices of synthetic patients; a patient is made when a slice of it is first asked for.

    Case number i is a pure function of (seed, i). Of structures that overlap the one with the higher channel
    is the label: an organ comes before its tumour.

    Args:
        phantoms: how many patients there are, their size and lesions.
        preprocessing: clip, normalisation and spacing.
        task: the structures and their channels.
        seed: of the patients.

    Raises:
        InputError: the preprocessing turns volumes another way than patients are made, or patients have no
            such structure.
    """

    def __init__(self, phantoms: PhantomConfig, preprocessing: Preprocessing, task: Task, seed: int) -> None:
        require(
            preprocessing.orientation == PHANTOM_ORIENTATION,
            f"preprocessing.orientation: expected {PHANTOM_ORIENTATION}, as synthetic patients are made, "
            f"got {preprocessing.orientation}",
        )
        for structure in task.structures:
            advice = suggestion(structure, list(STRUCTURE_TISSUES))
            require(
                structure in STRUCTURE_TISSUES,
                f"package.tasks[0].structures: synthetic patients have no {structure}; {advice}",
            )
        self.phantoms = phantoms
        self.preprocessing = preprocessing
        self.structures = sorted(task.structures, key=task.structures.__getitem__)
        self.channels = task.structures
        self.seed = seed
        self._cases: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.phantoms.count * self.phantoms.shape[0]

    def __getitem__(self, index: int) -> Slice:
        """Slice number `index`: those of the first patient come first, from the feet up."""
        case, position = divmod(index, self.phantoms.shape[0])
        if case not in self._cases:
            self._cases[case] = self._make_case(case)
        image, labels = (array[position] for array in self._cases[case])
        scaled = self.preprocessing.scaled(image.astype(np.float32))
        return Slice(torch.from_numpy(scaled)[None], torch.from_numpy(labels.astype(np.int64)))

    def _make_case(self, case: int) -> tuple[np.ndarray, np.ndarray]:
        """Clipped HU (int16) and classes (uint8) of one patient, (z, y, x)."""
        seed = int(np.random.default_rng([self.seed, case]).integers(2**32))
        spacing, shape = self.preprocessing.spacing, self.phantoms.shape
        phantom = make_phantom(seed, spacing, shape, None, self.phantoms.lesions)
        image = np.clip(phantom.volume.array, *self.preprocessing.clip).astype(np.int16)
        return image, self._labels(phantom)

    def _labels(self, phantom: Phantom) -> np.ndarray:
        labels = np.zeros(phantom.tissues.shape, np.uint8)
        for structure in self.structures:
            labels[phantom.mask(structure)] = self.channels[structure]
        return labels


class VariedSlices(Dataset[Slice]):
    """Slices cropped, mirrored and shifted in intensity, each a pure function of (seed, number, index).

    Args:
        source: of the slices.
        config: size, seed and how slices are varied.
    """

    def __init__(self, source: SliceSource, config: SliceBankConfig) -> None:
        self.source = source
        self.config = config

    def __getitem__(self, place: tuple[int, int]) -> Slice:
        """The slice that is the `number`-th of the run and has an `index` in the source: (number, index)."""
        number, index = place
        config = self.config
        rng = np.random.default_rng([config.seed, VARIATION, number])
        image, labels = crop(self.source[index], config.input_size, config.air, rng)
        axes = [axis for axis in config.mirror_axes if rng.random() < 0.5]
        if axes:
            image, labels = image.flip([axis - 2 for axis in axes]), labels.flip(axes)
        shift = rng.uniform(-config.intensity_shift, config.intensity_shift)
        return Slice(image + shift, labels)


def crop(whole: Slice, size: int, air: float, rng: np.random.Generator | None = None) -> Slice:
    """Cut size x size pixels out of a slice, or surround it with air.

    Args:
        whole: one slice.
        size: height and width of the result.
        air: intensity where the slice ends.
        rng: draws the place along each axis; None takes the middle.
    """
    padding = []
    for length in whole.labels.shape[::-1]:  # x, then y, as torch's padding goes
        missing = size - length
        low, high = sorted((missing, 0))
        before = missing // 2 if rng is None else int(rng.integers(low, high + 1))
        padding += [before, missing - before]
    return Slice(functional.pad(whole.image, padding, value=air), functional.pad(whole.labels, padding))


def steps_per_epoch(source: SliceSource, batch_size: int) -> int:
    """Batches in which every slice occurs at most once; the last, incomplete batch is left out."""
    return max(1, len(source) // batch_size)


def load_batches(
    source: SliceSource, config: SliceBankConfig, first: int, last: int, workers: Workers = ALONE
) -> Iterator[Slice]:
    """What a process has of the batches of the steps from `first` to before `last`.

    Each epoch has an order of its own; slice number `step * batch_size + n` is the same whoever reads it.

    Raises:
        InputError: the machine has too little shared memory for what data workers send; later a case that
            cannot be read.
    """
    places = _places(len(source), config, first, last, workers)
    pinned = workers.device.type == "cuda"
    return loaded(VariedSlices(source, config), places, config.workers, pinned, default_collate)


def _places(
    num_slices: int, config: SliceBankConfig, first: int, last: int, workers: Workers
) -> Iterator[list[tuple[int, int]]]:
    """For each step what `VariedSlices` is asked for."""
    size = min(config.batch_size, num_slices)
    per_epoch, own = num_slices // size, size // workers.size
    order, epoch = np.empty(0, np.int64), -1
    for step in range(first, last):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = np.random.default_rng([config.seed, ORDER, epoch]).permutation(num_slices)
        places = range(workers.rank * own, (workers.rank + 1) * own)
        start = step % per_epoch * size
        yield [(step * size + place, int(order[start + place])) for place in places]
