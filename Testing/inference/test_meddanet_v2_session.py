"""Med-DANet version 2 over whole slices: an imported package runs as the official test script does."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from PartialSegLib import __main__, read_segmentation, write_volume
from PartialSegLib.engines.flops import count_patch_flops
from PartialSegLib.errors import InputError
from PartialSegLib.importers.checkpoint import official_name
from PartialSegLib.importers.meddanet import V2_NAMES, import_meddanet_v2
from PartialSegLib.manifest import Manifest
from PartialSegLib.model import Model, load_model, save_model
from PartialSegLib.networks import MedDANetV2
from PartialSegLib.networks.flop_count import count_flops
from PartialSegLib.networks.meddanet_v2 import Choice
from PartialSegLib.session import InferenceSession
from PartialSegLib.volume import Volume

DESCRIPTION: dict[str, Any] = {
    "name": "slices",
    "version": "1.0.0",
    "title": "Random weights",
    "license": "Apache-2.0",
    "preprocessing": {"orientation": "SAR", "spacing": [3, 2, 2], "clip": [-500, 500], "divide": 100},
    "tasks": [{"name": "liver", "structures": {"liver": 1, "liver_tumor": 2}}],
}
SHAPE = (2, 136, 181)  # two windows along y, three along x


def noise() -> np.ndarray:
    """HU on the network's grid, of another strength in every slice and along x."""
    rng = np.random.default_rng(0)
    strength = np.array([20, 300])[:, None, None] * np.linspace(0.2, 2, SHAPE[2])
    return np.clip(rng.normal(0, 1, SHAPE) * strength, -500, 500).astype(np.int16)


def random_network(in_channels: int = 1) -> MedDANetV2:
    torch.manual_seed(1)
    return MedDANetV2(in_channels, num_classes=3, base_width=2).eval().requires_grad_(False)


@torch.inference_mode()
def undecided_network() -> MedDANetV2:
    """Random weights; choices and classes depend on the window."""
    network = random_network()
    windows = torch.from_numpy(noise()[:, None, :128, 30:158] / 100).float()
    classifier = network.decision_network.classifier
    seen: list[Tensor] = []
    hook = classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].mean(dim=0)))
    network.decision_network(windows)
    hook.remove()
    classifier.weight -= torch.outer(classifier.weight @ seen[0], seen[0]) / (seen[0] @ seen[0])
    for head, segment in (
        (network.crop_head, network.segment_crop),
        (network.whole_head, network.segment_whole),
    ):
        head[-1].weight *= 20
        head[-1].bias -= segment(windows).logits.mean(dim=(0, 2, 3))
    return network


def write_checkpoint(folder: Path, network: MedDANetV2) -> Path:
    weights = {f"module.{official_name(key, V2_NAMES)}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 349, "state_dict": weights, "optim_dict": {}}, folder / "model.pth")
    return folder / "model.pth"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("v2")
    imported = import_meddanet_v2(write_checkpoint(folder, undecided_network()), DESCRIPTION)
    save_model(folder / "package", imported.manifest, imported.state_dict, imported.license_text)
    return folder / "package"


@pytest.fixture(scope="module")
def volume() -> Volume:
    return Volume(noise(), np.array([[0, 0, 2.0, 0], [0, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]]))


def windowed(network: MedDANetV2, image: Tensor, kept_as: torch.dtype) -> Tensor:
    """The second softmax of the plain mean (C, H, W) of windows, one every 42 pixels of image (H, W)."""
    sums, counts = torch.zeros(3, *image.shape), torch.zeros(image.shape)
    height, width = image.shape
    for top, left in product(range(0, height - 128 + 42, 42), range(0, width - 128 + 42, 42)):
        top, left = min(top, height - 128), min(left, width - 128)
        found = network.segment(image[None, None, top : top + 128, left : left + 128])
        scores = found._replace(logits=found.logits.to(kept_as).float()).scores[0]
        sums[:, top : top + 128, left : left + 128] += scores
        counts[top : top + 128, left : left + 128] += 1
    return (sums / counts).softmax(dim=0)


@torch.inference_mode()
def classes_of(network: MedDANetV2, volume: Volume, kept_as: torch.dtype = torch.float32) -> np.ndarray:
    """All of the official script's inference (z, y, x), with logits and means rounded to a type."""
    classes = []
    flips: list[list[int]] = [[], [1], [2], [1, 2]]
    for image in torch.from_numpy(volume.array.astype(np.float32) / 100):
        mean = torch.zeros(3, *image.shape, dtype=kept_as)
        for axes in flips:
            mirrored = image.flip([axis - 1 for axis in axes])
            mean.add_(windowed(network, mirrored, kept_as).flip(axes), alpha=0.25)
        classes.append(mean.numpy().argmax(axis=0))
    return np.stack(classes)


def labels(model: Model, volume: Volume) -> tuple[np.ndarray, dict[str, Any]]:
    """What a session finds as label map, and its report."""
    session = InferenceSession(model, "cpu", mirror=True, cache_bytes=0)
    session.set_image(volume)
    found = session.predict()
    return found["liver"] + 2 * found["liver_tumor"], found.provenance


def test_a_package_segments_slices_as_the_official_script(package: Path, volume: Volume) -> None:
    """To the pixel, once what is kept is rounded to float16; the script itself keeps float32."""
    model = load_model(package)
    expected = classes_of(model.network, volume, torch.float16)
    found, report = labels(model, volume)
    assert min(np.bincount(expected.ravel())) > 0.05 * expected.size
    assert min(report["decisions"]["choices"].values()) > 0
    assert len(report["decisions"]["slice_choices"]) == 4 * 2 * 2 * 3
    assert np.count_nonzero(found != expected) <= 3
    assert np.count_nonzero(found != classes_of(model.network, volume)) < 0.002 * expected.size


@pytest.mark.parametrize(
    "rule",
    [{"weighting": "gaussian", "mirroring": "patches"}, {"mirroring": "patches"}, {"second_softmax": False}],
    ids=str,
)
def test_every_rule_of_the_script_matters(package: Path, volume: Volume, rule: dict[str, Any]) -> None:
    model = load_model(package)
    other = replace(model.manifest, inference=replace(model.manifest.inference, **rule))
    expected, found = labels(model, volume)[0], labels(replace(model, manifest=other), volume)[0]
    assert np.count_nonzero(found != expected) > 0.004 * expected.size


def test_the_command_line_segments_slices_alike(package: Path, volume: Volume, tmp_path: Path) -> None:
    write_volume(tmp_path / "ct.nii.gz", volume)
    output = tmp_path / "found.seg.nrrd"
    arguments = ["segment", tmp_path / "ct.nii.gz", "--model", package, "--mirror", "-o", output]
    assert __main__.main([str(argument) for argument in arguments]) == 0
    found = read_segmentation(output)
    expected = labels(load_model(package), volume)[0]
    np.testing.assert_array_equal(found["liver"] + 2 * found["liver_tumor"], expected)


def test_mirrored_images_have_their_own_patches_in_a_region(package: Path, volume: Volume) -> None:
    """Every window over the region is visited in each of them, so nothing in it changes."""
    session = InferenceSession(load_model(package), "cpu", mirror=True, cache_bytes=0)
    session.set_image(volume)
    whole = session.predict()
    everything = session.patches_encoded
    inside = session.predict(roi=((-400, 400), (100, 160), (-1, 1)))
    assert 0 < session.patches_encoded - everything < everything
    rows = np.zeros(SHAPE, bool)
    rows[:1, 50:80] = True
    for key in whole:
        np.testing.assert_array_equal(inside[key][rows], whole[key][rows])


def test_skipped_windows_say_nothing_in_the_mean() -> None:
    """The same class wins as with the official scores of 0."""
    v2 = random_network()
    v2.decision_network.classifier.weight.zero_()  # all choices alike: the first one, skip
    features = v2.forward_features(torch.randn(1, 1, 2, 128, 128))
    assert features.choices.tolist() == [[Choice.SKIP] * 2]
    assert not features.logits.any()
    assert not v2.segment(torch.randn(1, 1, 128, 128)).scores.any()


def test_arithmetic_is_that_of_a_whole_slice() -> None:
    v2, window = random_network(), torch.zeros(1, 1, 128, 128)
    counted = count_patch_flops(v2, (2, 128, 128), 1)
    one = count_flops(v2.decision_network, window) + count_flops(v2.segment_whole, window)
    assert (counted.features, counted.heads) == (2 * one, (0,))


def manifest_of(in_channels: int, folder: Path, **changes: Any) -> Manifest:
    checkpoint = write_checkpoint(folder, random_network(in_channels))
    return import_meddanet_v2(checkpoint, {**DESCRIPTION, **changes}).manifest


def test_a_network_for_four_modalities_is_refused_by_sessions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one for each of the network's 4 image channels"):
        manifest_of(4, tmp_path)
    channels = [{"name": name} for name in ("flair", "t1ce", "t1", "t2")]
    preprocessing = {**DESCRIPTION["preprocessing"], "channels": channels}
    manifest = manifest_of(4, tmp_path, modality="MR", preprocessing=preprocessing)
    with pytest.raises(InputError, match=r"the channels flair, t1ce, t1, t2, and only .*CT"):
        InferenceSession(Model(manifest, random_network(4), tmp_path), "cpu")


def test_version_2_cannot_be_trained() -> None:
    with pytest.raises(ValueError, match="for inference only"):
        random_network().train().forward_features(torch.zeros(1, 1, 1, 128, 128))
