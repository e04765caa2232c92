"""A session that relies on a coarse model, and an image of which that model is uncertain in places."""

from __future__ import annotations

import numpy as np
from bright_model import bright_model

from PartialSegLib.inference.region_selection import CoarsePass
from PartialSegLib.model import Model
from PartialSegLib.patches.choice import covered_voxels
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.session import InferenceSession
from PartialSegLib.task_request import request_tasks
from PartialSegLib.volume import Volume

SHAPE = (48, 32, 16)
AFFINE = np.array([[0, 0, -4.0, 50], [0, -4, 0, -10], [4, 0, 0, 100], [0, 0, 0, 1]])
SPOTS = (slice(6, 14), slice(22, 28), slice(36, 40))
"""Slices of the dim spots, each within one patch of 16 voxels, that leave less and less to doubt."""


def make_volume(spots: tuple[slice, ...] = SPOTS) -> Volume:
    """An organ that every patch holds a part of, with dim spots in it."""
    array = np.full(SHAPE, -200, np.float32)
    array[4:44, 4:28, 2:14] = 320
    for spot in spots:
        array[spot, 6:12, 4:10] = 100
    return Volume(array, AFFINE)


def session_with(model: Model, volume: Volume, **options: object) -> InferenceSession:
    session = InferenceSession(model, "cpu", precision="float32", **options)
    session.set_image(volume)
    return session


def relying(
    model: Model, volume: Volume, effort: float, coarse: Model | None = None, **options: object
) -> InferenceSession:
    coarse = bright_model() if coarse is None else coarse
    return session_with(model, volume, region_from=CoarsePass(coarse, effort=effort), **options)


def covered(session: InferenceSession, task: str = "liver") -> np.ndarray:
    """The voxels (D, H, W) of the network's grid in the patches that the session visits for a task."""
    selected = session._require_selected()
    requests = request_tasks(session.model.manifest, task, None)
    views = selected.views(requests, None, lambda: session._find_coarsely(session._coarse, lambda *_: None))
    return covered_voxels(views[requests[0].number].patches, selected.image.tensor.shape)


def assert_same(first: Segmentation, second: Segmentation) -> None:
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=str(key))


def patch_counts(found: Segmentation, task: str = "liver") -> dict[str, float]:
    return found.provenance["selection"]["tasks"][task]["patches"]
