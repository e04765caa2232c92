"""What a batch asks of every case, and what must be equal where batches share a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from ..errors import InputError
from ..manifest import Manifest, read_manifest
from ..packages.installed import find_package
from ..segmentation import Key
from ..segmentation_files.dicom_seg import check_highdicom
from ..task_request import request_tasks

OUTPUT_FORMATS = (".seg.nrrd", ".nii.gz", ".dcm", "folder")
"""A segmentation with overlapping segments, a label map, one in DICOM, or a folder with a mask of each."""
_SETTINGS = ("overlap", "mirror", "selection", "skip_air", "engine")
_WORDS = {
    "model_version": "model", "weights_sha256": "model", "segments": "structures", "output_format": "format",
}  # fmt: skip


@dataclass(frozen=True)
class BatchRequest:
    """What is asked of every case.

    Attributes:
        manifest: of the model.
        tasks, structures: names; None for all.
        output_format: one of `OUTPUT_FORMATS`.
        settings: whatever else changes the result, as plain JSON; see `settings_of`.

    Raises:
        InputError: unknown task, structure or format, or one that needs highdicom, which is missing.
    """

    manifest: Manifest
    tasks: tuple[str, ...] | None = None
    structures: tuple[str, ...] | None = None
    output_format: str = OUTPUT_FORMATS[0]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names that the model does not know."""
        if not self.keys:
            raise InputError("No structure is chosen, so there is nothing to look for; choose one.")
        if self.output_format not in OUTPUT_FORMATS:
            raise InputError(
                f"Unknown output format {self.output_format!r}; choose from {', '.join(OUTPUT_FORMATS)}."
            )
        if self.output_format == ".dcm":
            check_highdicom()

    @property
    def keys(self) -> list[Key]:
        """(task, structure) of everything that is looked for, in the order of the model."""
        requests = sorted(request_tasks(self.manifest, self.tasks, self.structures))
        return [(request.task.name, structure) for request in requests for structure in request.structures]

    def to_json(self) -> dict[str, Any]:
        """What two batches must have in common to share a folder."""
        return {
            **_identity(self.manifest),
            "segments": [list(key) for key in self.keys],
            "output_format": self.output_format,
            "settings": dict(self.settings),
        }

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Name what another request, as `to_json` gave it, has different: "model", "structures", "overlap".

        An overlap that is not given is the model's, and the engine auto is torch where OpenVINO is missing.
        """
        ours, theirs = (self._comparable(json.loads(json.dumps(one))) for one in (self.to_json(), other))
        names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        return list(dict.fromkeys(_WORDS.get(name, name) for name in names))

    def _comparable(self, request: dict[str, Any]) -> dict[str, Any]:
        """All fields and settings side by side, each as it takes effect."""
        settings = request.pop("settings", {})
        fields = request | settings | {"segments": sorted(map(tuple, request.get("segments", ())))}
        fields["effort"] = (fields.get("region_from") or {}).pop("effort", 1.0)
        if fields.get("overlap") is None:
            fields["overlap"] = self.manifest.inference.overlap
        if fields.get("engine") == "auto" and find_spec("openvino") is None:
            fields["engine"] = "torch"
        return fields


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a session that change its results, as plain JSON for a `BatchRequest`.

    Args:
        options: by their names, those of `InferenceSession`. The coarse model, `region_from`, is the name or
            folder of a package, or None; `effort` is its own, None for 1. Others are left out.

    Raises:
        InputError: there is no such package.
    """
    settings = {name: options[name] for name in _SETTINGS}
    coarse, effort = options["region_from"], options["effort"]
    if coarse is None:
        return settings | {"region_from": None}
    identity = _identity(read_manifest(find_package(coarse)))
    return settings | {"region_from": identity | {"effort": 1.0 if effort is None else effort}}


def _identity(manifest: Manifest) -> dict[str, Any]:
    return {
        "model": manifest.name,
        "model_version": manifest.version,
        "weights_sha256": manifest.weights_sha256,
    }
