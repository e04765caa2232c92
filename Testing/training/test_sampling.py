"""Which case, and where in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from PartialSegLib.training.patches.sampling import case_probabilities, choose_start
from PartialSegLib.training.preparation.case_store import (
    CaseSummary,
    LabelValue,
    PreparedCase,
    read_case,
    write_case,
)

SIZES = st.tuples(*[st.integers(1, 40)] * 3)


def case_with_box(shape, low, high) -> PreparedCase:
    """A case whose value 1 fills a box; nothing is on disk."""
    voxels = int(np.prod(np.subtract(high, low)))
    return PreparedCase(Path(), CaseSummary("", shape, (-1.0,), (LabelValue(1, voxels, low, high),)))


def test_each_case_or_each_data_set_by_the_root_of_its_size():
    data_sets = ["large"] * 16 + ["small"] * 4
    np.testing.assert_allclose(case_probabilities(data_sets, "uniform"), 1 / 20)
    root = case_probabilities(data_sets, "sqrt")
    assert root.sum() == pytest.approx(1)
    assert root[:16].sum() / root[16:].sum() == pytest.approx(4 / 2)
    assert root[16] / root[0] == pytest.approx(2)


@settings(max_examples=60)
@given(SIZES, SIZES, st.sampled_from(["end", "both sides"]), st.integers(0, 1000), st.data())
def test_parts_stay_inside_or_cover_the_image(shape, size, padding, seed, data):
    low = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    high = tuple(data.draw(st.integers(first + 1, n)) for first, n in zip(low, shape, strict=True))
    case = case_with_box(shape, low, high)
    for foreground in (0.0, 1.0):
        start = choose_start(case, [(1,)], size, "dodnet", foreground, padding, np.random.default_rng(seed))
        for first, extent, length in zip(start, size, shape, strict=True):
            if extent <= length:
                assert 0 <= first <= length - extent
            else:
                assert first == (-((extent - length) // 2) if padding == "both sides" else 0)


def test_dodnet_s_parts_lie_in_the_grown_box_of_the_structures_alone():
    case = case_with_box((300, 300, 300), (100, 150, 240), (110, 240, 280))
    rng = np.random.default_rng(0)
    how = [(1,), (9,)], (20, 20, 20), "dodnet", 1, "end"
    starts = np.array([choose_start(case, *how, rng) for _ in range(4000)])
    # 10 voxels grow to 20; then 32 more on each side, of which the border leaves 20 at the end of x
    assert starts.min(0).tolist() == [95 - 32, 150 - 32, 240 - 32]
    assert starts.max(0).tolist() == [115 + 32 - 20, 240 + 32 - 20, 300 - 20]


def test_the_probability_of_foreground_is_kept():
    case = case_with_box((600, 600, 600), (100, 100, 100), (110, 110, 110))
    rng = np.random.default_rng(0)
    starts = [choose_start(case, [(1,)], (20, 20, 20), "dodnet", 0.8, "end", rng) for _ in range(2000)]
    near = (np.abs(np.array(starts) - 95) <= 32).all(1)
    assert near.mean() == pytest.approx(0.8, abs=0.03)


def test_without_foreground_parts_lie_anywhere():
    case = case_with_box((60, 50, 40), (0, 0, 0), (1, 1, 1))
    rng = np.random.default_rng(0)
    for structures, foreground in (([(1,)], 0.0), ([(2,)], 1.0)):
        starts = np.array(
            [choose_start(case, structures, (20,) * 3, "voxel", foreground, "end", rng) for _ in range(2000)]
        )
        np.testing.assert_allclose(starts.mean(0), [20, 15, 10], atol=1)
        assert starts.max(0).tolist() == [40, 30, 20]


def test_parts_around_voxels_of_random_structures(tmp_path):
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[2:22, 2:22, 2:22] = 1  # 8000 voxels
    labels[30, 31, 32] = 2
    labels[33, 31, 32] = 3
    write_case(tmp_path / "a", np.zeros((1, 40, 40, 40), np.float32), labels, (-1.0,), "")
    case = read_case(tmp_path / "a")
    assert case is not None
    rng = np.random.default_rng(0)
    how = [(1,), (2, 3), (9,)], (5, 5, 5), "voxel", 1, "end"
    centers = np.array([choose_start(case, *how, rng) for _ in range(600)]) + 2
    found = labels[tuple(centers.T)]
    assert found.all()
    assert (found > 1).mean() == pytest.approx(0.5, abs=0.07)  # structures, not voxels, are equal
    assert (found == 2).mean() == pytest.approx(0.25, abs=0.07)
    assert len({tuple(center) for center in centers[found == 1]}) > 250


def test_values_of_a_structure_are_drawn_by_their_voxels(tmp_path):
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:12, 2:12, 2:11] = 1  # 900 voxels
    labels[15, 5:15, 5:15] = 2  # 100
    write_case(tmp_path / "a", np.zeros((1, 20, 20, 20), np.float32), labels, (-1.0,), "")
    case = read_case(tmp_path / "a")
    assert case is not None
    rng = np.random.default_rng(0)
    voxels = [choose_start(case, [(1, 2)], (1, 1, 1), "voxel", 1, "end", rng) for _ in range(600)]
    assert np.mean([labels[voxel] == 2 for voxel in voxels]) == pytest.approx(0.1, abs=0.04)
