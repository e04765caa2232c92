"""The patient's body in a CT: the largest object denser than air."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from scipy import ndimage

BODY_THRESHOLD_HU = -300  # between air or lung and fat
BODY_MARGIN_MM = 10.0


def body_margins(spacing: Sequence[float]) -> list[int]:
    """How many voxels along each axis the body is widened by; the spacing is in mm."""
    return [ceil(BODY_MARGIN_MM / step) for step in spacing]


def largest_object(dense: np.ndarray) -> np.ndarray | None:
    """The largest connected object of a boolean array (z, y, x), of its shape; None if there is none."""
    components, count = ndimage.label(dense)
    if not count:
        return None
    largest: np.ndarray = components == np.bincount(components.ravel())[1:].argmax() + 1
    return largest
