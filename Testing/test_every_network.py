"""Every network runs through the same session: features once, heads for each task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from PartialSegLib.importers import dodnet, multitalent
from PartialSegLib.importers.nnunet_plans import SEPARATE_ABOVE
from PartialSegLib.manifest import Inference, Manifest, NetworkSpec, Preprocessing, Task
from PartialSegLib.model import load_model, save_model
from PartialSegLib.networks import NETWORKS
from PartialSegLib.networks.unet import MULTITALENT_TASK_CHANNELS
from PartialSegLib.session import InferenceSession
from PartialSegLib.volume import Volume

U_NET: dict[str, Any] = {
    "widths": [8, 12, 16],
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "depths": [1, 1, 1],
    "decoder_depths": [1, 1],
}
FLARE = (Task("FLARE", {"liver": 1, "spleen": 3, "tumor": 14}),)
CASES: dict[str, tuple[dict[str, Any], tuple[Task, ...], dict[str, Any]]] = {
    "DoDNet": ({"num_tasks": 7, "widths": [16, 16, 16], "depths": [1, 1, 1]}, dodnet.MOTS_TASKS, {}),
    "TransDoDNet": (
        {"num_tasks": 7, "width": 48, "num_levels": 2, "encoder_layers": 1, "decoder_layers": 1}
        | {"depths": [1, 1, 1, 1], "planes": [8, 8, 8, 8]},
        dodnet.MOTS_TASKS,
        {},
    ),
    "UNet": ({**U_NET, "task_channels": list(MULTITALENT_TASK_CHANNELS)}, multitalent.TASKS, {}),
    "ResidualEncoderUNet": ({**U_NET, "task_channels": [15]}, FLARE, {"activation": "softmax"}),
    "STUNet": ({"base_width": 4}, FLARE, {"activation": "softmax", "blend": "logits"}),
}


@pytest.fixture(scope="module", params=CASES)
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> InferenceSession:
    """A session on a small network of random weights, with an image."""
    arguments, tasks, inference = CASES[request.param]
    torch.manual_seed(0)
    network = NETWORKS[request.param](**arguments)
    manifest = Manifest(
        name="small",
        version="1.0.0",
        title="Random weights",
        license="CC0-1.0",
        network=NetworkSpec(request.param, arguments),
        preprocessing=Preprocessing("SPL", (3.0, 2.0, 2.0), (-200, 300), separate_above=SEPARATE_ABOVE),
        inference=Inference((32, 64, 64), patch_positions="even", padding="both sides", **inference),
        tasks=tasks,
    )
    folder = tmp_path_factory.mktemp(request.param) / "package"
    save_model(folder, manifest, network.state_dict(), "Public domain")
    array = np.random.default_rng(0).integers(-200, 300, (40, 60, 70)).astype(np.int16)
    affine = np.array([[0, 0, -2.0, 0], [0, -2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
    session = InferenceSession(load_model(folder), "cpu", precision="float32")
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
