import numpy as np
import pytest
import torch
from bright_model import bright_model
from test_preprocessing import CPU, recipe, volume_of, weights_between

from PartialSegLib.inference.score_keeping import KeptWinners
from PartialSegLib.inference.session_image import SessionImage
from PartialSegLib.manifest import Task
from PartialSegLib.processing.preprocessing import preprocess
from PartialSegLib.processing.winner_restoration import WinnerRestoration


def restore_winners(scores, prepared, channels):
    """The masks where all scores (C, D, H, W) are there at once."""
    winners = WinnerRestoration(prepared, len(scores), channels, scores.device)
    winners.add(scores)
    return winners.masks(channels)


@pytest.mark.parametrize("shape", [(9, 12, 10), (20, 30, 25)])
@pytest.mark.parametrize("channels", [[3, 1, 2], [2], [0, 1], [2, 0, 3, 1]])
def test_winners_are_the_argmax_of_the_interpolated_scores(shape, channels):
    """As nnU-Net does; and a structure that is second everywhere may win between two others."""
    prepared = preprocess(volume_of(shape), recipe(resampling="cubic"), CPU)
    scores = torch.randn((4, *prepared.tensor.shape), generator=torch.Generator().manual_seed(0)).half()
    plain = weights_between(prepared)
    in_order = scores.permute([0, *(axis.network_axis + 1 for axis in prepared.axes)]).float().numpy()
    expected = np.einsum("zi,yj,xk,cijk->czyx", *plain, in_order, optimize=True).argmax(0)
    masks = list(restore_winners(scores, prepared, channels))
    for channel, (box, mask) in zip(channels, masks, strict=True):
        whole = np.zeros(shape, bool)
        whole[box] = mask
        assert np.count_nonzero(whole != (expected == channel)) <= 2


def test_of_equal_scores_the_first_wins_and_small_boxes_are_compared_where_they_overlap():
    prepared = preprocess(volume_of((12, 12, 12)), recipe("SAL", (3, 2, 2.5)), CPU)
    scores = torch.zeros((4, *prepared.tensor.shape))
    scores[1, 2:8], scores[2, 6:10, 2:6], scores[3, 6:7] = 1, 1, 2
    expected = scores.argmax(0).numpy()
    for channel, (box, mask) in zip([1, 2, 3], restore_winners(scores, prepared, [1, 2, 3]), strict=True):
        found = np.zeros(expected.shape, bool)
        found[box] = mask
        np.testing.assert_array_equal(found, expected == channel)


def test_no_winner_is_an_empty_mask():
    prepared = preprocess(volume_of((9, 12, 10)), recipe(), CPU)
    scores = torch.zeros((3, *prepared.tensor.shape))
    scores[0] = 1
    for box, mask in restore_winners(scores, prepared, [1, 2]):
        assert mask.shape == (0, 0, 0)
        assert all(extent.start == extent.stop for extent in box)


@pytest.mark.parametrize("stretch", [1, 3, 7])
@pytest.mark.parametrize("orientation", ["SPL", "IAR", "RAS", "ASL"])
@pytest.mark.parametrize("spacing", [(3, 2, 2.5), (1, 1, 1), (5, 4.5, 4)])
@pytest.mark.parametrize("channels", [[1, 2], [0, 1, 2]])
def test_slices_that_come_one_stretch_at_a_time_give_the_same(orientation, spacing, stretch, channels):
    """Whichever axis of the image they follow, in either direction, on finer and coarser grids."""
    volume = volume_of((19, 14, 16), spacing)
    volume.array[:, :3] = -1000  # cropped away
    prepared = preprocess(volume, recipe(orientation, (3, 3.5, 3)), CPU, crop_to_body=True)
    scores = torch.randn((3, *prepared.tensor.shape), generator=torch.Generator().manual_seed(0)).half()
    scores[1:, 4:9] = 0
    winners = WinnerRestoration(prepared, 3, channels, CPU)
    for start in range(0, scores.shape[1], stretch):
        winners.add(scores[:, start : start + stretch])
    for (box, mask), (whole_box, whole) in zip(
        winners.masks(channels), restore_winners(scores, prepared, channels), strict=True
    ):
        assert box == whole_box
        np.testing.assert_array_equal(mask, whole)


def test_what_is_decided_is_forgotten():
    """Only the slices that the next rows are interpolated from are held."""
    prepared = preprocess(volume_of((60, 8, 8)), recipe("SPL", (4, 4, 4)), CPU)
    winners = WinnerRestoration(prepared, 3, [1, 2], CPU)
    for start in range(0, prepared.tensor.shape[0], 5):
        winners.add(torch.rand(3, 5, *prepared.tensor.shape[1:])[:, : prepared.tensor.shape[0] - start])
        assert winners._pending.shape[1] <= 1


@pytest.mark.parametrize("stretch", [1, 4])
@pytest.mark.parametrize("orientation", ["SPL", "IAR", "RAS"])
@pytest.mark.parametrize("spacing", [(3, 2, 2.5), (1, 1, 1), (7, 7, 7)])
def test_slices_in_which_nothing_can_win_may_be_skipped(orientation, spacing, stretch):
    prepared = preprocess(volume_of((19, 14, 16), spacing), recipe(orientation, (3, 3.5, 3)), CPU)
    scores = torch.randn((3, *prepared.tensor.shape), generator=torch.Generator().manual_seed(0)).half()
    nothing = torch.tensor([0, -6e4, -6e4]).half()
    added, skipped = (WinnerRestoration(prepared, 3, [1, 2], CPU) for _ in range(2))
    for number, part in enumerate(scores.split(stretch, dim=1)):
        if number % 2:
            added.add(part)
            skipped.add(part)
        else:
            added.add(nothing[:, None, None, None].expand(part.shape))
            skipped.skip(part.shape[1], nothing)
    found = 0
    for (box, mask), (whole_box, whole) in zip(skipped.masks([1, 2]), added.masks([1, 2]), strict=True):
        assert box == whole_box
        np.testing.assert_array_equal(mask, whole)
        found += int(mask.sum())
    assert found or stretch == 1


def test_more_structures_than_a_byte_counts():
    prepared = preprocess(volume_of((2, 3, 4)), recipe("SAL", (3, 2, 2.5)), CPU)
    scores = torch.zeros((300, *prepared.tensor.shape))
    scores[299] = 1
    (_, last), (_, other) = restore_winners(scores, prepared, [299, 299 - 256])
    assert last.shape == (2, 3, 4)
    assert last.all()
    assert other.size == 0


def test_where_all_channels_are_wanted_the_first_is_left_over():
    prepared = preprocess(volume_of((2, 3, 4)), recipe("SAL", (3, 2, 2.5)), CPU)
    (_, first), (_, second) = restore_winners(torch.zeros((2, *prepared.tensor.shape)), prepared, [0, 1])
    assert first.all()
    assert not second.any()


def test_a_narrow_lead_is_not_rounded_away_far_above_the_background():
    prepared = preprocess(volume_of((2, 3, 4)), recipe("SAL", (3, 2, 2.5)), CPU)
    scores = torch.tensor([-3, 1, 1.001]).half()[:, None, None, None].expand(-1, 2, 3, 4)
    (_, first), (_, second) = restore_winners(scores, prepared, [1, 2])
    assert not first.any()
    assert second.shape == (2, 3, 4)
    assert second.all()


def test_rows_between_pending_and_skipped_slices_are_decided():
    prepared = preprocess(volume_of((39, 6, 6), (1, 2, 2.5)), recipe("SAL", (3, 2, 2.5)), CPU)
    nothing = torch.tensor([0, -10]).half()
    scores = nothing[:, None, None, None].repeat(1, 13, 6, 6)
    scores[1, 2] = 100  # reaches far into the rows between it and the next slice
    winners = WinnerRestoration(prepared, 2, [1], CPU)
    winners.add(scores[:, :3])
    winners.skip(6, nothing)
    winners.add(scores[:, 9:])
    ((box, mask),) = winners.masks([1])
    ((whole_box, whole),) = restore_winners(scores, prepared, [1])
    assert box == whole_box
    assert np.array_equal(mask, whole)


def test_skipped_slices_take_nothing_from_the_one_beside_them():
    task = Task("liver", {"liver": 1})
    model = bright_model(task, spacing=6, activation="softmax")
    image = SessionImage.prepare(volume_of((32, 16, 16)), model.manifest, 0.5, CPU, crop_to_body=False)
    winners = KeptWinners(image, task, 2, None, CPU)
    means = torch.zeros(2, 4, *image.tensor.shape[1:])
    means[1] = 1
    winners.add(means)
    winners.skip(image.tensor.shape[0] - 4)
    ((_, (box, mask)),) = winners.masks(["liver"])
    assert box[0] == slice(0, 7)  # of 8; half a slice further lies the first that was skipped
    assert mask.all()
