"""Reference weights and inputs anyone can regenerate, and the comparison with stored official outputs.

A vector file holds, for each output X of an official network, its shape, its statistics over all elements,
samples of it, and the same for a run of the official code in float64. "X/noise" is the difference between the
two runs: what float32 rounding alone may do.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

RELATIVE_FLOOR = 2e-5  # of the largest reference value, float32
NOISE_FACTOR = 10.0  # times the float32 rounding noise of the official code
ABSOLUTE_FLOOR = {"": 1e-7, "64": 1e-9}


def reference_weight(name: str, shape: Sequence[int], dtype: str = "float32") -> Array:
    """Values of the weight with this official name; they depend on name and shape alone.

    He-scaled normal numbers for kernels, about one for the scales of normalisations, one or more for running
    variances, about zero for biases and running means, zero for integers.
    """
    if dtype == "int64":
        return np.zeros(tuple(shape), dtype)
    normal = np.random.default_rng(zlib.crc32(name.encode())).normal(size=tuple(shape))
    if len(shape) > 1:
        normal *= np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        normal = 1 + 0.1 * np.abs(normal)
    else:
        normal = 0.1 * normal + (1.0 if name.endswith("weight") else 0.0)
    return normal.astype(np.float32)


def reference_input(seed: int, shape: Sequence[int]) -> Array:
    """Normal numbers cut off at -1 and 1, as a clipped and scaled CT is."""
    return np.random.default_rng(seed).normal(size=tuple(shape)).clip(-1, 1).astype(np.float32)


def weights_digest(weights: Mapping[str, Array]) -> str:
    """SHA-256 over name, shape and bytes of all weights in the order of their names; a scalar is (1,)."""
    digest = hashlib.sha256()
    for name, values in sorted(weights.items()):
        digest.update(f"{name}{np.atleast_1d(values).shape}".encode() + values.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Comparison:
    """One output against its reference: the largest error and the tolerance that holds where it occurs.

    `scale` is the largest reference value; errors relative to it compare between outputs.
    """

    output: str
    dtype: str
    largest_error: float
    tolerance: float
    agrees: bool
    scale: float = 1.0


def compare(vectors: Mapping[str, Array], name: str, output: Array) -> Comparison:
    """Hold an output to the official run in its own precision.

    float32 may differ by ten times the official rounding noise. float64 is the sharp test: it sees a wrong
    epsilon inside a normalisation, which float32 does not. Where the official code has no run in float64,
    because parts of it are always float32, an output in float64 is held to the run in float32.
    """
    if output.shape != tuple(vectors[f"{name}/shape"]):
        return Comparison(name, str(output.dtype), np.inf, 0.0, False)
    suffix = "64" if output.dtype == np.float64 and f"{name}/stats64" in vectors else ""
    pairs = [
        (part, vectors[f"{name}/{key}{suffix}"]) for key, part in _stored_parts(vectors, name, output).items()
    ]
    errors = [np.abs(part.astype(np.float64) - reference) for part, reference in pairs]
    scale = max(float(np.abs(reference).max()) for _, reference in pairs)
    tolerances = [_tolerance(vectors, name, reference.dtype, suffix, scale) for _, reference in pairs]
    mean_tolerance = _mean_tolerance(vectors, name, suffix, scale)
    worst = max(range(len(pairs)), key=lambda i: errors[i].max() / tolerances[i])
    agrees = (
        errors[worst].max() <= tolerances[worst]
        and np.sqrt((errors[0] ** 2).mean()) <= mean_tolerance
        and _statistics_agree(output, vectors[f"{name}/stats{suffix}"], mean_tolerance)
    )
    return Comparison(
        name, str(output.dtype), float(errors[worst].max()), tolerances[worst], bool(agrees), scale
    )


def _stored_parts(vectors: Mapping[str, Array], name: str, output: Array) -> dict[str, Array]:
    """The parts of an output that a vector file keeps: all of it, or a grid and two corners."""
    if f"{name}/full" in vectors:
        return {"full": output}
    leading = max(output.ndim - 3, 0)
    spatial = output.ndim - leading
    return {
        "sub": output[tuple(slice(step // 2, None, step) for step in vectors[f"{name}/step"].tolist())],
        "corner": output[(slice(2),) * leading + (slice(6),) * spatial],
        "hicorner": output[(slice(-2, None),) * leading + (slice(-6, None),) * spatial],
    }


def _tolerance(vectors: Mapping[str, Array], name: str, stored: np.dtype, suffix: str, scale: float) -> float:
    """Largest error allowed; parts of float64 references are stored as float32, so they prove less."""
    if suffix:
        as_double, as_single = vectors["floor64"]
        return max(float(as_double if stored == np.float64 else as_single) * scale, 1e-12)
    return max(
        RELATIVE_FLOOR * scale, NOISE_FACTOR * float(vectors[f"{name}/noise"][0]), ABSOLUTE_FLOOR[suffix]
    )


def _mean_tolerance(vectors: Mapping[str, Array], name: str, suffix: str, scale: float) -> float:
    """Largest root-mean-square error, and largest error of mean and standard deviation, allowed."""
    if suffix:
        return max(float(vectors["floor64"][1]) * scale, ABSOLUTE_FLOOR[suffix])
    return max(
        RELATIVE_FLOOR * scale, NOISE_FACTOR * float(vectors[f"{name}/noise"][1]), ABSOLUTE_FLOOR[suffix]
    )


def _statistics_agree(output: Array, reference: Array, tolerance: float) -> bool:
    """Mean, population standard deviation and sum of absolute values over all elements, in float64."""
    values = output.astype(np.float64)
    errors = np.abs(np.array([values.mean(), values.std(), np.abs(values).sum()]) - reference)
    return bool((errors <= tolerance * np.array([1, 1, values.size])).all())
