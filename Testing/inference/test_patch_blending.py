import pytest
import torch

from PartialSegLib.patches.blending import KeptScores, PatchBlender
from PartialSegLib.patches.sliding_window import (
    Patch,
    gaussian_weight,
    pad_to_patch,
    patch_weight,
    plan_patches,
)

CPU = torch.device("cpu")
SHAPES = [(16, 16, 16), (17, 20, 31), (40, 9, 24), (5, 7, 3), (1, 1, 1)]
PATCH_SIZES = [(16, 16, 16), (8, 16, 4), (5, 7, 9)]
OVERLAPS = [0, 0.25, 0.5, 0.7, 0.9]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_identity_predictor_returns_the_image(shape, patch_size, overlap):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    padded = pad_to_patch(image, patch_size, 0)
    kept = KeptScores(padded.shape, 2, CPU)
    blender = PatchBlender(padded.shape, 2, gaussian_weight(patch_size), kept)
    for patch in plan_patches(shape, patch_size, overlap):
        part = padded[patch.slices]
        assert part.shape == patch_size
        blender.add(patch, torch.stack([part, -part]))
    z, y, x = shape
    blender.finish_pass()
    scores = kept.scores[:, :z, :y, :x].float()
    assert torch.allclose(scores, torch.stack([image, -image]), atol=5e-4)


def test_blending_is_the_weighted_mean():
    weight = gaussian_weight((4, 4, 4))
    shape, overlap = (11, 6, 9), 0.5
    random = torch.Generator().manual_seed(0)
    kept = KeptScores(shape, 1, CPU)
    blender = PatchBlender(shape, 1, weight, kept)
    sums, weights = torch.zeros(shape), torch.zeros(shape)
    for patch in plan_patches(shape, (4, 4, 4), overlap):
        for _ in range(2):
            scores = torch.rand(1, 4, 4, 4, generator=random)
            blender.add(patch, scores)
            sums[patch.slices] += weight * scores[0]
            weights[patch.slices] += weight
    blender.finish_pass()
    assert torch.allclose(kept.scores[0].float(), sums / weights, atol=5e-4)


@pytest.mark.parametrize(
    ("device", "keep_on"), [("cpu", "cpu"), pytest.param("cuda", "cpu", marks=pytest.mark.gpu)]
)
def test_means_can_be_kept_elsewhere(device, keep_on):
    weight, image = gaussian_weight((4, 4, 4)), torch.rand(1, 11, 6, 9).to(device)
    near = KeptScores((11, 6, 9), 1, image.device)
    far = KeptScores((11, 6, 9), 1, torch.device(keep_on))
    for kept in (near, far):
        blender = PatchBlender((11, 6, 9), 1, weight.to(kept.scores.device), kept)
        for patch in plan_patches((11, 6, 9), (4, 4, 4), 0.5):
            blender.add(patch, image[:, *patch.slices])
        blender.finish_pass()
    assert far.scores.device.type == keep_on
    torch.testing.assert_close(far.scores, near.scores.to(keep_on), rtol=0, atol=1e-3)


def test_voxels_that_no_patch_covers_score_zero():
    kept = KeptScores((12, 8, 8), 1, CPU)
    blender = PatchBlender((12, 8, 8), 1, gaussian_weight((4, 4, 4)), kept)
    blender.add(Patch((6, 4, 0), (4, 4, 4)), torch.ones(1, 4, 4, 4))
    expected = torch.zeros(12, 8, 8)
    expected[6:10, 4:8, :4] = 1
    blender.finish_pass()
    assert torch.equal(kept.scores[0].float(), expected)


def test_patches_in_descending_order_are_refused():
    blender = PatchBlender((12, 4, 4), 1, gaussian_weight((4, 4, 4)), KeptScores((12, 4, 4), 1, CPU))
    blender.add(Patch((6, 0, 0), (4, 4, 4)), torch.ones(1, 4, 4, 4))
    with pytest.raises(ValueError, match="ascending"):
        blender.add(Patch((0, 0, 0), (4, 4, 4)), torch.ones(1, 4, 4, 4))


def test_passes_over_an_image_are_averaged_after_their_last_step():
    random = torch.Generator().manual_seed(0)
    shape, size = (5, 4, 6), (2, 4, 4)
    kept = KeptScores(shape, 2, CPU, 3)
    blender = PatchBlender(shape, 2, patch_weight(size, "constant"), kept, lambda means: means.square())
    expected = torch.zeros(2, *shape)
    for _ in range(3):
        sums, counts = torch.zeros(2, *shape), torch.zeros(shape)
        for patch in plan_patches(shape, size, 0.5):
            scores = torch.rand(2, *size, generator=random)
            blender.add(patch, scores)
            sums[:, *patch.slices] += scores
            counts[patch.slices] += 1
        blender.finish_pass()
        expected += (sums / counts).square() / 3
    assert torch.allclose(kept.scores.float(), expected, atol=1e-3)


def test_slices_without_any_patch_are_skipped():
    """So a region costs what its own slices cost."""

    class Calls(list):
        def add(self, means):
            self.append(means.shape[1])

        def skip(self, count):
            self.append(-count)

    calls = Calls()
    blender = PatchBlender((40, 4, 4), 2, gaussian_weight((4, 4, 4)), calls)
    for _ in range(2):
        for start in (12, 14, 24):
            blender.add(Patch((start, 0, 0), (4, 4, 4)), torch.ones(2, 4, 4, 4))
        blender.finish_pass()
    assert calls == [-12, 2, 4, -6, 4, -12] * 2
