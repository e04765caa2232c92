"""The record beside a collection with pseudo-labels: of every case and structure, where its labels come from.

It is also the state of the run that makes the collection: a run that was stopped goes on where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from ...errors import InputError
from ...files.json_fields import from_json, to_json
from ...files.output_files import replacing

FORMAT: Final = "partialseg-pseudo-labels"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True)
class StructureRecord:
    """One structure in the label map of one case.

    Attributes:
        origin: "original" where the data set came with it, "pseudo" where a model predicted it.
        voxels: that belong to it.
        volume_ml: of these voxels.
        model: name and version of the model that predicted it.
        weights_sha256: checksum of that model's weights.
        predicted_voxels: found by the model.
        conflicts: how many of those original labels ruled out.
        disagreement: 1 − Dice with the second prediction, where one was made.
    """

    origin: Literal["original", "pseudo"]
    voxels: int
    volume_ml: float
    model: str | None = None
    weights_sha256: str | None = None
    predicted_voxels: int | None = None
    conflicts: int | None = None
    disagreement: float | None = None


@dataclass(frozen=True)
class CaseRecord:
    """What became of a case.

    Attributes:
        fingerprint: of what its labels were made from, see `plan.PlannedCase`.
        structures: of the label map that was made, by id; empty where it failed.
        earlier: pseudo-labels that the source came with, from an earlier stage.
        error: why it failed, in a sentence; its labels are then those of the source.
        doubts: why its pseudo-labels are not used; its labels are then those of the source.
    """

    fingerprint: str
    structures: dict[str, StructureRecord] = field(default_factory=dict)
    earlier: dict[str, StructureRecord] = field(default_factory=dict)
    error: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def is_used(self) -> bool:
        """Whether the collection holds its pseudo-labels."""
        return not self.error and not self.doubts

    @property
    def pseudo_labels(self) -> dict[str, StructureRecord]:
        """The predicted structures that the collection holds of the case."""
        labels = self.structures if self.is_used else self.earlier
        return {id: record for id, record in labels.items() if record.origin == "pseudo"}


@dataclass(frozen=True)
class ValueRecord:
    """Meaning of a value of merged label maps: the original value, and what was predicted there."""

    original: int
    pseudo: tuple[str, ...] = ()


@dataclass(frozen=True)
class PseudoLabelRecord:
    """The whole file.

    Attributes:
        settings: what two runs must have in common to go on with each other's work.
        limits: beyond which pseudo-labels are not used.
        values: of each data set with pseudo-labels, the values of its label maps.
        cases: by name; those of earlier stages too.
    """

    settings: dict[str, Any]
    limits: dict[str, Any] = field(default_factory=dict)
    values: dict[str, dict[str, ValueRecord]] = field(default_factory=dict)
    cases: dict[str, CaseRecord] = field(default_factory=dict)
    format: Literal["partialseg-pseudo-labels"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION


def record_path(collection: Path) -> Path:
    """Where the record of a collection file lies."""
    return collection.with_name(f"{collection.stem}.pseudo_labels.json")


def lock_path(collection: Path) -> Path:
    """The file that a run holds which makes a collection file and its record."""
    return collection.with_name(f".{collection.stem}.pseudo_labels.lock")


def read_record(collection: Path) -> PseudoLabelRecord | None:
    """Read the record beside a collection file; None where there is none.

    Raises:
        InputError: it cannot be read.
    """
    path = record_path(collection)
    try:
        return from_json(PseudoLabelRecord, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is no record of pseudo-labels ({error}); remove it, or begin anew with --overwrite."
        ) from None


def write_record(collection: Path, record: PseudoLabelRecord) -> None:
    """Write the record beside a collection file, in one stroke.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(record_path(collection)) as temporary:
        temporary.write_text(json.dumps(to_json(record), indent=1) + "\n", encoding="utf-8")
