"""Features kept between tasks: a budgeted dictionary.

Every prediction visits the patches in the same order, so a least-recently-used cache smaller than the image
would never hit. Here features stay once computed, until the image changes; what does not fit is recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

Features = Any
"""A tensor, or a named tuple of tensors: what a network's `forward_features` returns."""


class FeatureCache:
    """Keeps the features of patches in float16, as long as they fit the budget.

    Features are rounded whether they are kept or not, so results never depend on the budget.

    Args:
        budget_bytes: 0 keeps nothing.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._kept: dict[Hashable, Features] = {}

    def __len__(self) -> int:
        """Number of patches whose features are kept."""
        return len(self._kept)

    def get_or_compute(self, key: Hashable, compute: Callable[[], Features]) -> Features:
        """Return the features under the key, from `compute` if they are not kept."""
        if key in self._kept:
            return self._kept[key]
        features = map_tensors(_rounded, compute())
        size = sum(tensor.nbytes for tensor in feature_tensors(features))
        if self.used_bytes + size <= self.budget_bytes:
            self._kept[key] = features
            self.used_bytes += size
        return features

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.used_bytes = 0


def map_tensors(function: Callable[[Tensor], Tensor], features: Features) -> Features:
    """Apply a function to the tensors of features."""
    if isinstance(features, Tensor):
        return function(features)
    return type(features)(*(map_tensors(function, item) for item in features))


def all_finite(features: Features) -> bool:
    """Whether no value of the features is NaN or infinite."""
    return all(_is_finite(tensor) for tensor in feature_tensors(features))


def feature_tensors(features: Features) -> list[Tensor]:
    """The tensors of features, in their order."""
    if isinstance(features, Tensor):
        return [features]
    return [tensor for item in features for tensor in feature_tensors(item)]


def _is_finite(tensor: Tensor) -> bool:
    """Extremes say it in a tenth of the time of `isfinite`: a NaN is both of them."""
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(tensor))


def _rounded(tensor: Tensor) -> Tensor:
    """The tensor as float16, or as float32 where float16 would overflow."""
    half = tensor.half()
    return half if _is_finite(half) else tensor.float()
