"""Scores packed by tiles: what can change a mask is there to the bit, the rest takes no memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bright_model import bright_model
from numpy.random import Generator
from scipy import ndimage

from PartialSegLib import InferenceSession
from PartialSegLib.inference import score_keeping
from PartialSegLib.inference.score_keeping import ScoreKeeping
from PartialSegLib.patches import packed_scores
from PartialSegLib.patches.packed_scores import PackedScores
from PartialSegLib.task import PostprocessingStep, Task
from PartialSegLib.volume import Volume


def random_scores(rng: Generator) -> torch.Tensor:
    """Low scores with a few high voxels, (channels, D, H, W)."""
    scores = rng.uniform(0, 0.49, rng.integers(1, (4, 40, 60, 60)))
    for _ in range(rng.integers(4)):
        scores[tuple(rng.integers(scores.shape))] = 0.9
    return torch.from_numpy(scores.astype(np.float32))


def pack(rng: Generator, scores: torch.Tensor, packed: PackedScores) -> None:
    """Add the scores layer by layer; skipped slices are set to -1."""
    start, depth = 0, scores.shape[1]
    while start < depth:
        stop = min(depth, start + int(rng.integers(1, 9)))
        if rng.random() < 0.2:
            scores[:, start:stop] = -1
            packed.skip(stop - start)
        else:
            packed.add(scores[:, start:stop].clone())
        start = stop


@pytest.mark.parametrize("seed", range(40))
def test_all_within_reach_of_a_high_score_is_kept(seed):
    rng = np.random.default_rng(seed)
    scores, reach = random_scores(rng), rng.integers(0, 20, 3).tolist()
    packed = PackedScores(scores.shape[1:], len(scores), threshold=0.5, nothing=-1, reach=reach)
    pack(rng, scores, packed)
    is_high = (scores > 0.5).any(dim=0).numpy()
    needed = ndimage.binary_dilation(is_high, np.ones([2 * voxels + 1 for voxels in reach]))
    expected, found = scores.half().numpy(), packed.scores.numpy()
    np.testing.assert_array_equal(found[:, needed], expected[:, needed])
    assert ((found == expected) | (found == -1)).all()


def test_what_is_far_from_all_that_is_high_takes_no_memory():
    scores = torch.full((2, 64, 160, 160), 0.4)
    scores[0, 20:30, 40:60, 40:60] = 1
    packed = PackedScores(scores.shape[1:], 2, threshold=0.5, nothing=0, reach=(1, 1, 1))
    for start in range(0, 64, 16):
        packed.add(scores[:, start : start + 16])
    assert packed.nbytes < 2 * scores.numel() / 20


@pytest.mark.parametrize(
    ("activation", "number", "options"),
    [
        ("softmax", 2, {}),
        ("sigmoid", 1, {}),
        ("sigmoid", 2, {"passes": 2}),
        ("sigmoid", 2, {"as_they_are": True}),
    ],
)
def test_scores_that_are_needed_as_they_are_or_for_one_task_are_not_packed(activation, number, options):
    tasks = [Task("liver", {"liver": 1}), Task("kidney", {"kidney": 1})]
    inference = bright_model(*tasks, activation=activation).manifest.inference
    voxels, cpu = score_keeping.PACKED_ABOVE_BYTES, torch.device("cpu")
    assert not ScoreKeeping(inference, **options).packs(tasks[:number], voxels, cpu)
    assert ScoreKeeping(replace(inference, activation="sigmoid")).packs(tasks, voxels, cpu)


@pytest.mark.parametrize("spacing", [1.0, 2.5, 6.0])
@pytest.mark.parametrize("steps", [(), (PostprocessingStep("keep_largest", "liver", count=1),)], ids=len)
@pytest.mark.parametrize("blend", ["probabilities", "logits"])
def test_masks_are_the_same_packed_or_not(spacing, steps, blend, monkeypatch):
    """Scores are smooth noise around one half, so that nearly every voxel decides about some mask."""
    tasks = Task("liver", {"liver": 0}, postprocessing=steps), Task("kidney", {"kidney": 0})
    model = bright_model(*tasks, spacing=spacing, thresholds=(250,), overlap=0, blend=blend)
    noise = np.random.default_rng(5).normal(size=(36, 30, 33))
    array = 235 + 25 * ndimage.gaussian_filter(noise, 1) / 0.14
    volume = Volume(array.astype(np.int16), np.diag([2.5, 2.5, 2.5, 1])[:, [2, 1, 0, 3]])
    session = InferenceSession(model, "cpu", precision="float32", engine="torch")
    session.set_image(volume, check=False)
    expected = session.predict()
    packing = []
    monkeypatch.setattr(
        score_keeping, "PackedScores", lambda *given: packing.append(1) or PackedScores(*given)
    )
    monkeypatch.setattr(score_keeping, "PACKED_ABOVE_BYTES", 0)
    monkeypatch.setattr(packed_scores, "TILE_VOXELS", 1)
    found = session.predict()
    assert len(packing) == 2
    for key in expected:
        assert 0.01 < expected[key].mean() < 0.5
        np.testing.assert_array_equal(found[key], expected[key], str(key))
