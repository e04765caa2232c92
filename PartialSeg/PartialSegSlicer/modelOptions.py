"""Which model runs, and how: the same for volumes and files, in scripts and in the panel."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PartialSegLib.files.json_fields import from_json
from PartialSegLib.protocol import LoadModel

BUNDLED_MODEL = "trunk-7tasks"


@dataclass(frozen=True)
class ModelOptions:
    """How a model runs.

    Attributes:
        model: name of an installed package or a folder; the bundled one when None.
        device: auto, cpu, cuda, cuda:N or mps.
        engine: of the convolutions: auto, torch, or where it is installed openvino, or openvino-int8, which
            rounds them to 8 bits.
        precision: of the convolutions: auto, float32, bfloat16 or float16.
        overlap: of neighbouring patches, in [0, 1); None takes the model's.
        mirror: average over flips.
        selection: axial slices that are looked at: auto, exact or fast, as of
            `PartialSegLib.InferenceSession`; "off" looks at everything, whatever the three below say.
        skipAir: leave out air and table around the body.
        regionFrom: name or folder of the package of a coarse model that looks first; None for none.
        effort: 0 (fast) to 1 (thorough): how much of what the coarse model is unsure of is looked at.
        cacheBytes: budget for features; None takes half of what is free.
    """

    model: str | Path | None = None
    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"
    overlap: float | None = None
    mirror: bool = False
    selection: str = "auto"
    skipAir: bool = False
    regionFrom: str | Path | None = None
    effort: float = 1.0
    cacheBytes: int | None = None

    def forWorker(self) -> dict[str, Any]:
        """Parameters of the worker's `load_model`.

        Raises:
            InputError: the effort or the budget for features is no such number, or a value of another kind
                than its field.
        """
        return asdict(
            _checked(
                path=str(self.model or BUNDLED_MODEL),
                device=self.device,
                engine=self.engine,
                precision=self.precision,
                overlap=self.overlap,
                mirror=self.mirror,
                selection=self.selection,
                skip_air=self.skipAir,
                region_from=None if self.regionFrom is None else str(self.regionFrom),
                effort=self.effort,
                cache_bytes=self.cacheBytes,
            )
        )


def _checked(**values: Any) -> LoadModel:
    """The message to the worker; numbers of NumPy, for one, are none in JSON."""
    return from_json(LoadModel, values)
