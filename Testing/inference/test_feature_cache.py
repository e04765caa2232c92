from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from PartialSegLib.patches.feature_cache import FeatureCache, all_finite, map_tensors


class Pair(NamedTuple):
    decoder: Tensor
    pooled: Tensor


def pair(value=0.1):
    return Pair(torch.full((1, 4, 2, 2, 2), value), torch.full((1, 8), value))


PAIR_BYTES = 2 * (4 * 8 + 8)


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(0, 0), (PAIR_BYTES - 1, 0), (PAIR_BYTES, 1), (2 * PAIR_BYTES + 1, 2), (1 << 20, 5)],
)
def test_features_are_kept_from_the_first_on_while_they_fit(budget, kept):
    cache = FeatureCache(budget)
    computed = []
    for _ in range(2):
        for key in range(5):
            cache.get_or_compute(key, lambda key=key: computed.append(key) or pair(key))
    assert computed == [*range(5), *range(kept, 5)]
    assert len(cache) == kept
    assert cache.used_bytes == kept * PAIR_BYTES <= budget


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_features_are_rounded_to_float16_whether_kept_or_not(budget):
    cache = FeatureCache(budget)
    for _ in range(2):
        features = cache.get_or_compute("key", pair)
        assert isinstance(features, Pair)
        assert features.decoder.dtype == torch.float16
        assert torch.equal(features.decoder, pair().decoder.half())


def test_values_beyond_float16_are_kept_in_float32():
    features = FeatureCache(0).get_or_compute("key", lambda: pair(1e6))
    assert features.decoder.dtype == torch.float32
    assert features.decoder.eq(1e6).all()


def test_a_failed_computation_leaves_nothing_behind():
    cache = FeatureCache(1 << 20)
    with pytest.raises(MemoryError):
        cache.get_or_compute("key", lambda: (_ for _ in ()).throw(MemoryError))
    assert len(cache) == cache.used_bytes == 0


def test_clearing_forgets():
    cache = FeatureCache(1 << 20)
    cache.get_or_compute("key", pair)
    cache.clear()
    assert len(cache) == cache.used_bytes == 0


def test_plain_tensors_are_features_too():
    assert torch.equal(FeatureCache(99).get_or_compute(1, lambda: torch.ones(3)), torch.ones(3).half())
    assert torch.equal(map_tensors(Tensor.double, torch.ones(3)), torch.ones(3).double())


def test_finite_features():
    assert all_finite(pair())
    assert not all_finite(pair(float("nan")))
    assert not all_finite(pair()._replace(pooled=torch.tensor([1, float("inf")])))
