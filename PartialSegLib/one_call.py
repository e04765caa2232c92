"""Segmenting one image in one call."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .inference.patch_scoring import Progress
from .inference.region_selection import CoarsePass
from .model import Model
from .segmentation import Segmentation
from .session import InferenceSession, Limits, ignore_progress
from .volume import Volume


def segment(
    volume: Volume | str | Path,
    model: Model | str | Path,
    tasks: str | Iterable[str] | None = None,
    *,
    on_progress: Progress = ignore_progress,
    structures: str | Iterable[str] | None = None,
    roi: Limits | None = None,
    effort: float | None = None,
    device: str = "auto",
    cache_bytes: int | None = 0,
    overlap: float | None = None,
    mirror: bool = False,
    precision: str = "auto",
    engine: str = "auto",
    selection: str = "auto",
    skip_air: bool = False,
    region_from: CoarsePass | Model | str | Path | None = None,
) -> Segmentation:
    """Segment one image in one call.

    The volume may be what `read_volume` reads, the model what `load_model` loads. Tasks, on_progress,
    structures, roi and effort are those of `InferenceSession.predict`, all else is for `InferenceSession`; no
    features are kept unless `cache_bytes` says so.

    Returns:
        Masks on the grid of the volume.

    Raises:
        InputError: as for `InferenceSession`, its `set_image` and its `predict`.
        DeviceError: likewise.
    """
    session = InferenceSession(
        model,
        device,
        cache_bytes,
        overlap=overlap,
        mirror=mirror,
        precision=precision,
        engine=engine,
        selection=selection,
        skip_air=skip_air,
        region_from=region_from,
    )
    session.set_image(volume)
    return session.predict(tasks, on_progress, structures=structures, roi=roi, effort=effort)
