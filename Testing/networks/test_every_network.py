"""Every network runs through the same session: features once, heads for each task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_networks import SMALL_NETWORKS, small_model

from PartialSegLib.session import InferenceSession
from PartialSegLib.volume import Volume


@pytest.fixture(scope="module", params=SMALL_NETWORKS)
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> InferenceSession:
    """A session on a small network of random weights, with an image."""
    model = small_model(request.param, tmp_path_factory.mktemp(request.param))
    array = np.random.default_rng(0).integers(-200, 300, (40, 60, 70)).astype(np.int16)
    affine = np.array([[0, 0, -2.0, 0], [0, -2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
    session = InferenceSession(model, "cpu", precision="float32")
    session.set_image(Volume(array, affine))
    return session


def test_all_tasks_are_segmented_and_encoded_once(session: InferenceSession) -> None:
    manifest = session.model.manifest
    first = session.predict(manifest.tasks[0].name)
    encoded = session.patches_encoded
    found = session.predict()

    assert encoded == session.patches_planned > 1
    assert session.patches_encoded == encoded
    assert len(found) == sum(len(task.structures) for task in manifest.tasks)
    for structure in manifest.tasks[0].structures:
        key = (manifest.tasks[0].name, structure)
        np.testing.assert_array_equal(first[key], found[key])


@torch.inference_mode()
def test_forward_is_head_of_features(session: InferenceSession) -> None:
    network: Any = session.model.network
    patch = torch.randn(1, 1, 32, 64, 64)
    features = network.forward_features(patch)
    for task in range(len(session.model.manifest.tasks)):
        logits = network.forward_head(features, task)
        assert torch.equal(network(patch, task), logits)
        assert logits.shape[2:] == patch.shape[2:]
