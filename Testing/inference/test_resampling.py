import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from PartialSegLib.processing import resampling
from PartialSegLib.processing.resampling import (
    cubic_weights,
    linear_weights,
    nearest_weights,
    resample_by_slabs,
    trilinear_weights,
    used_columns,
    used_rows,
)

SIZES = [(1, 1), (1, 5), (7, 1), (10, 10), (10, 4), (11, 4), (4, 11), (100, 37), (37, 100)]


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("weights", [linear_weights, trilinear_weights, cubic_weights])
def test_rows_sum_to_one_and_mirror(weights, old, new):
    matrix = weights(old, new)
    assert matrix.shape == (new, old)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-5)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_linear_is_the_antialiased_interpolation_of_torch(old, new):
    signal = torch.randn(1, 1, old, 3, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(signal, size=(new, 3), mode="bilinear", antialias=True)[0, 0]
    assert torch.allclose(torch.from_numpy(linear_weights(old, new)) @ signal[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_trilinear_is_the_plain_interpolation_of_torch(old, new):
    signal = torch.randn(1, 1, old, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(signal, size=new, mode="linear")[0, 0]
    assert torch.allclose(torch.from_numpy(trilinear_weights(old, new)) @ signal[0, 0], expected, atol=1e-4)


@pytest.mark.parametrize(("old", "new"), [*SIZES, (45, 90), (6, 4), (3, 9), (90, 45)])
def test_nearest_is_spline_interpolation_of_order_zero(old, new):
    centers = (np.arange(new) + 0.5) * (old / new) - 0.5
    expected = ndimage.map_coordinates(np.arange(old, dtype=float), [centers], order=0, mode="nearest")
    np.testing.assert_array_equal(nearest_weights(old, new) @ np.arange(old), expected)


def test_cubic_is_spline_zoom_of_the_whole_volume():
    volume = np.random.default_rng(0).normal(size=(6, 9, 13))
    shape = (11, 5, 13)
    zoom = [new / old for new, old in zip(shape, volume.shape, strict=True)]
    expected = ndimage.zoom(volume, zoom, order=3, mode="nearest", grid_mode=True)
    matrices = [cubic_weights(old, new) for old, new in zip(volume.shape, shape, strict=True)]
    np.testing.assert_allclose(np.einsum("zi,yj,xk,ijk->zyx", *matrices, volume), expected, atol=1e-4)


@pytest.mark.parametrize("slab_voxels", [1, 200, 1 << 22])
@pytest.mark.parametrize("shape", [(12, 5, 6), (3, 4, 5), (40, 8, 7), (12, 10, 3)])
@pytest.mark.parametrize("weights", [linear_weights, trilinear_weights, cubic_weights])
def test_slabs_equal_the_whole(monkeypatch, weights, shape, slab_voxels):
    monkeypatch.setattr(resampling, "SLAB_VOXELS", slab_voxels)
    volume = torch.randn(12, 10, 6, generator=torch.Generator().manual_seed(1))
    matrices = tuple(
        torch.from_numpy(weights(old, new)) for old, new in zip(volume.shape, shape, strict=True)
    )
    parts = list(resample_by_slabs(lambda planes: volume[planes], matrices))
    assert [part.start for part, _ in parts] == [0, *(part.stop for part, _ in parts[:-1])]
    result = torch.cat([slab for _, slab in parts])
    expected = torch.einsum("zi,yj,xk,ijk->zyx", *matrices, volume)
    assert result.shape == shape
    assert torch.allclose(result, expected, atol=1e-5)


def test_used_rows_and_columns_span_the_nonzero_entries():
    matrix = torch.zeros(5, 6)
    assert used_rows(matrix) == used_columns(matrix) == slice(0, 0)
    matrix[1, 2] = matrix[3, 4] = -1
    assert used_rows(matrix) == slice(1, 4)
    assert used_columns(matrix) == slice(2, 5)


@pytest.mark.parametrize("weights", [linear_weights, trilinear_weights, nearest_weights, cubic_weights])
def test_matrices_of_an_image_are_kept_and_those_of_many_images_are_not(weights):
    first = weights(7, 5)
    assert weights(7, 5) is first
    for size in range(8, 40):
        weights(size, 5)
    assert weights.cache_info().currsize == resampling.MATRICES_KEPT
