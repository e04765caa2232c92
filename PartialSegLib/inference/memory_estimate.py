"""How much memory a run takes, predicted from the network, the image and the settings before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch

from ..engines.network_runner import NetworkRunner
from ..manifest import Manifest
from ..model import Model
from ..patches.feature_cache import FeatureCache
from ..patches.sliding_window import count_patches, missing_voxels
from ..processing.preprocessing import network_shape
from ..pytorch.devices import free_memory
from ..system_memory import resident_memory
from ..task_request import TaskRequest, request_tasks
from ..volume import Volume
from .patch_memory import measure_patch_memory
from .score_keeping import ScoreKeeping
from .selection import Selection
from .session_image import SessionImage

LIBRARIES_BYTES = 350 << 20  # Python and PyTorch, where the system does not tell what they take
CHECK_BYTES, CROP_BYTES = 6, 13  # per voxel, to look for NaN; for the body: components and their sizes
CLEANING_BYTES, WINNER_BYTES = 19, 20  # per voxel of a mask: components, scores; of a softmax: the best two
UNION_BYTES = 14  # per voxel of structures taken as one on the image's grid: mask, components, their sizes
LARGEST_BOX, USUAL_BOX = 1 / 4, 1 / 16  # what the box of a structure fills of an image of the trunk
UNION_BOX = 1 / 2  # and that of several
PACKED_SHARE = 1 / 8  # of the scores, that is kept where those are dropped that change no mask
VIEWS_IN_WORK = 4  # masks of the network's grid, while one of those that stay is made
CACHE_BYTES_IF_UNKNOWN = 2 << 30
EVERYTHING = Selection("off")


@dataclass(frozen=True)
class MemoryEstimate:
    """The most memory that a run on the CPU takes, in bytes, by what it is for.

    Attributes:
        process: interpreter, libraries, and whatever else the process holds.
        weights: of the model, and of the copy that the session works with.
        volume: the image as it was read.
        image: the same on the network's grid.
        preparation: needed besides while the image is prepared, and free again afterwards.
        engine: what OpenVINO takes to start, if the first patch starts it.
        features: kept for further tasks.
        activations: of the network for one patch, at their most.
        sums: of scores, for one patch depth.
        scores: their means for the whole image.
        masks: finished ones and the one in work; when they are made, there are no activations and sums.
        views: what says where each task looks.
    """

    process: int
    weights: int
    volume: int
    image: int
    preparation: int
    engine: int
    features: int
    activations: int
    sums: int
    scores: int
    masks: int
    views: int = 0

    @property
    def to_come(self) -> int:
        """What is needed beyond what is there when the volume is read and the model is loaded."""
        return self.image + max(self.preparation, self.features + self.besides_features)

    @property
    def besides_features(self) -> int:
        """What visiting patches and then making masks takes at its most."""
        return self.engine + self.views + self.scores + max(self.activations + self.sums, self.masks)

    @property
    def peak(self) -> int:
        """The most that is resident at a time."""
        return self.process + self.weights + self.volume + self.to_come

    def with_coarse(self, coarse: MemoryEstimate) -> MemoryEstimate:
        """The same with a coarse model that looks first; what it finds stays."""
        return replace(
            self,
            image=self.image + coarse.image,
            engine=self.engine + coarse.engine,
            activations=max(
                self.activations, coarse.scores + max(coarse.activations + coarse.sums, coarse.masks)
            ),
            masks=self.masks + coarse.masks,
        )


class MemoryEstimator:
    """Predicts what the images of a session take.

    Args:
        model: of the session.
        runner: its network on the session's device; run once with a patch of a few voxels.
        overlap: shared fraction of neighbouring patches.
        num_flips: how many times each patch is encoded.
        keeping: of the scores.
        selection: what is left out.
    """

    def __init__(
        self,
        model: Model,
        runner: NetworkRunner,
        overlap: float,
        num_flips: int,
        keeping: ScoreKeeping,
        selection: Selection = EVERYTHING,
    ) -> None:
        self._keeping = keeping
        self._selection = selection
        self._manifest = model.manifest
        self._device = runner.device
        self._overlap = overlap
        self._num_flips = num_flips
        self._weights = 2 * sum(tensor.nbytes for tensor in model.network.state_dict().values())
        self._patch = measure_patch_memory(runner, model.manifest)

    def estimate(
        self,
        volume: Volume,
        requests: Sequence[TaskRequest],
        cache_bytes: int | None,
        is_loaded: bool,
    ) -> MemoryEstimate:
        """Predict the run for a volume; cropping it to the body and skipping patches makes it less.

        Args:
            volume: only shape, affine and voxel type are looked at.
            requests: tasks and structures.
            cache_bytes: budget for features; None for what `choose_cache_bytes` is likely to choose.
            is_loaded: whether the voxels are in memory already.
        """
        inference, preprocessing = self._manifest.inference, self._manifest.preprocessing
        shape = network_shape(volume, preprocessing)
        missing = missing_voxels(shape, inference.patch_size)
        padded = [size + more for size, more in zip(shape, missing, strict=True)]
        patches = count_patches(padded, inference.patch_size, self._overlap, inference.patch_positions)
        held = resident_memory()
        there = self._weights + (volume.array.nbytes if is_loaded else 0)
        estimate = MemoryEstimate(
            process=LIBRARIES_BYTES if held is None else max(0, held - there),
            weights=self._weights,
            volume=volume.array.nbytes,
            image=4 * (prod(padded) + any(missing) * prod(shape)),
            preparation=(CROP_BYTES if preprocessing.crop_to_body else CHECK_BYTES) * prod(shape),
            engine=self._patch.engine,
            features=0,
            activations=self._patch.activations,
            sums=self._sum_bytes(padded, requests),
            scores=self._score_bytes(padded, volume.array.size, requests),
            masks=self._mask_bytes(volume.array.size, padded, requests),
            views=self._view_bytes(volume.array.size, prod(padded), requests),
        )
        rest = estimate.image + estimate.besides_features
        budget = self._budget(patches, rest) if cache_bytes is None else cache_bytes
        return replace(estimate, features=min(budget, self._feature_bytes(patches)))

    def choose_cache_bytes(self, image: SessionImage) -> int:
        """A budget for the features of an image: half of what is free on the device beside all else.

        It is at most what all features take, and 2 GiB where the device does not say what is free.
        """
        requests = request_tasks(self._manifest, None, None)
        rest = self._patch.engine + self._image_bytes(image, requests)
        if self._device.type != "cuda":
            rest += self._view_bytes(prod(image.prepared.input_shape), prod(image.tensor.shape), requests)
        return self._budget(len(image.patches), rest)

    def choose_scores_device(
        self, image: SessionImage, requests: Sequence[TaskRequest], cache: FeatureCache
    ) -> torch.device:
        """Where to collect scores: on the device, unless it has no room for them beside features.

        Args:
            image: whose scores they are.
            requests: tasks that are scored in one pass.
            cache: of the features.
        """
        if self._device.type != "cuda":
            return self._device
        needed = self._image_bytes(image, requests)
        needed += min(cache.budget_bytes, self._feature_bytes(len(image.patches))) - cache.used_bytes
        free = free_memory(self._device)
        fits = free is None or needed <= free
        return self._device if fits else torch.device("cpu")

    def _budget(self, patches: int, rest: int) -> int:
        free = free_memory(self._device)
        budget = CACHE_BYTES_IF_UNKNOWN if free is None else max(0, free - rest) // 2
        return min(budget, self._feature_bytes(patches))

    def _feature_bytes(self, patches: int) -> int:
        return self._patch.features * patches * self._num_flips

    def _image_bytes(self, image: SessionImage, requests: Sequence[TaskRequest]) -> int:
        """What visiting patches and making masks takes beside features."""
        shape, voxels = image.tensor.shape, prod(image.prepared.input_shape)
        masks = self._mask_bytes(voxels, shape, requests)
        scores = self._score_bytes(shape, voxels, requests)
        return scores + max(self._patch.activations + self._sum_bytes(shape, requests), masks)

    def _view_bytes(self, input_voxels: int, network_voxels: int, requests: Sequence[TaskRequest]) -> int:
        """What says where tasks look, and the coarse masks that may be taken for theirs."""
        coarse = self._selection.coarse is not None
        if not coarse and not self._selection.skip_air:
            return 0
        of_each_task = 2 if coarse else int(self._selection.mode == "fast")  # else all share one
        arrays = len(requests) * of_each_task + VIEWS_IN_WORK
        structures = sum(len(request.task.structures) for request in requests) if coarse else 0
        return round(arrays * network_voxels + structures * USUAL_BOX * input_voxels)

    def _score_bytes(self, shape: Sequence[int], input_voxels: int, requests: Sequence[TaskRequest]) -> int:
        """What is kept of the scores of tasks for an image (D, H, W).

        That is the means of the whole image, or the winners on the input grid and the means of a patch depth,
        as they come and behind those that are still needed.
        """
        planes = self._manifest.inference.patch_size[0] * shape[1] * shape[2]
        share = PACKED_SHARE if self._packs_scores(shape, requests) else 1
        collected = 0
        for request in requests:
            number = num_score_channels(request, self._manifest)
            if self._keeping.keeps_winners(request.task):
                collected += input_voxels * (1 if number < 256 else 2) + 4 * number * planes
            else:
                collected += round(share * 2 * number * prod(shape))
        return collected

    def _sum_bytes(self, shape: Sequence[int], requests: Sequence[TaskRequest]) -> int:
        """The sums of tasks for a patch depth of an image (D, H, W), and the division of one's."""
        planes = self._manifest.inference.patch_size[0] * shape[1] * shape[2]
        channels = [num_score_channels(request, self._manifest) for request in requests]
        return 4 * (sum(channels) + len(channels) + max(channels, default=0)) * planes

    def _packs_scores(self, shape: Sequence[int], requests: Sequence[TaskRequest]) -> bool:
        return self._keeping.packs([request.task for request in requests], prod(shape), self._device)

    def _mask_bytes(self, input_voxels: int, shape: Sequence[int], requests: Sequence[TaskRequest]) -> int:
        """What masks take: finished ones, packed and cropped to their boxes, and the one in work."""
        network_voxels = prod(shape)
        finished = sum(len(request.structures) for request in requests) * USUAL_BOX * input_voxels / 8
        in_work = LARGEST_BOX * 2 * input_voxels
        if self._packs_scores(shape, requests):  # unpacked for one task at a time
            in_work += 2 * max(len(request.task.structures) for request in requests) * network_voxels
        if not all(self._keeping.keeps_winners(request.task) for request in requests):
            in_work += LARGEST_BOX * CLEANING_BYTES * network_voxels
            if self._manifest.inference.decides_by_winner:
                in_work = max(in_work, input_voxels + WINNER_BYTES * network_voxels)
        unions = [len(request.task.structures) for request in requests if request.task.image_steps]
        if unions:  # masks of a whole task, and their copies
            in_work = max(in_work, (2 * max(unions) * USUAL_BOX + UNION_BYTES * UNION_BOX) * input_voxels)
        return round(finished + in_work)


def num_score_channels(request: TaskRequest, manifest: Manifest) -> int:
    """Score maps of a task: one for each structure, or a softmax's channels up to the last structure."""
    structures = request.task.structures
    return len(structures) if manifest.inference.activation == "sigmoid" else max(structures.values()) + 1
