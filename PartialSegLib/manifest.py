"""Manifest: what a model package says of itself, in its `model.json`.

A package is a folder with `model.json`, `weights.safetensors`, `LICENSE` and, if it selects slices,
`decision.safetensors`. The dataclasses below are `model.json`, field for field; what they refuse is refused
with its place and the reason.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final, Literal, TypeVar

from .decision_spec import DecisionSpec
from .errors import InputError
from .files.file_names import allowed
from .files.json_fields import from_json, require, to_json
from .image_channel import ONE_CT, ImageChannel
from .structures import load_structures
from .task import PostprocessingStep, Task

__all__ = [
    "DecisionSpec",
    "FileEntry",
    "ImageChannel",
    "Inference",
    "Manifest",
    "NetworkSpec",
    "PostprocessingStep",
    "Preprocessing",
    "Task",
    "is_inside",
    "is_model_name",
    "manifest_from_json",
    "manifest_to_json",
    "parse_manifest",
    "read_manifest",
]

FORMAT: Final = "partialseg-model"
FORMAT_VERSION: Final = 1
MANIFEST_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
DECISION_FILE = "decision.safetensors"
LICENSE_FILE = "LICENSE"
AXIS_OF_LETTER = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}

Intensities = TypeVar("Intensities", bound=Any)  # an array or a tensor


@dataclass(frozen=True)
class FileEntry:
    """Checksum (SHA-256, hexadecimal) and size in bytes of one file of the package."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        """Refuse values that no package can mean."""
        require(
            re.fullmatch("[0-9a-f]{64}", self.sha256) is not None, "sha256: expected 64 hexadecimal digits"
        )
        require(self.bytes >= 0, f"bytes: expected a size, got {self.bytes}")


@dataclass(frozen=True)
class NetworkSpec:
    """Which class of `NETWORKS` to build, and the keyword arguments of its constructor."""

    architecture: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def members(self) -> int:
        """How many networks are averaged: more than one in an ensemble."""
        return int(self.arguments.get("members", 1)) if self.architecture == "Ensemble" else 1


@dataclass(frozen=True)
class Preprocessing:
    """How the image becomes the network's input: orient, resample, clip, then (HU - subtract) / divide.

    Scores come back to the input's grid by linear interpolation, anti-aliased if the intensities were.

    Attributes:
        orientation: the direction in which each array axis (z, y, x) grows, three letters such as "SPL".
        spacing: distance of voxel centres along (z, y, x) in mm.
        clip: lowest and highest intensity in HU.
        subtract: HU taken off after clipping.
        divide: HU that become 1.
        resampling: "linear", anti-aliased; or "trilinear" or "cubic" B-splines, which are not. With
            `clip_first` or `separate_above` cubic ones stay in the range of the image, or of each slice, as
            in nnU-Net.
        grid: whether size * spacing / target is rounded or truncated to whole voxels.
        clip_first: clip before resampling, as nnU-Net version 2 does, and again after it.
        separate_above: where the largest spacing of the image, else of the network, is more than this many
            times its smallest, the axis with the largest spacing is not interpolated: the nearest slice is
            taken, there and back (nnU-Net: 3). None interpolates always.
        pad_value: HU outside the image.
        crop_to_body: look only at the box around the body unless told otherwise.
        channels: of the image, in the order of the network; None is one CT. Clipping, scaling and `pad_value`
            are those of the channels in HU; outside the image the others are 0.
    """

    orientation: str
    spacing: tuple[float, float, float]
    clip: tuple[float, float]
    subtract: float = 0.0
    divide: float = 1.0
    resampling: Literal["linear", "trilinear", "cubic"] = "linear"
    grid: Literal["rounded", "truncated"] = "rounded"
    clip_first: bool = False
    separate_above: float | None = None
    pad_value: float = 0.0
    crop_to_body: bool = False
    channels: tuple[ImageChannel, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse values that no package can mean."""
        axes = sorted(AXIS_OF_LETTER.get(letter, -1) for letter in self.orientation)
        require(
            axes == [0, 1, 2],
            f"orientation: expected one letter each of L/R, P/A and I/S, as in SPL, got {self.orientation!r}",
        )
        require(
            min(self.spacing) > 0,
            f"spacing: expected three distances above 0 mm (z, y, x), got {list(self.spacing)}",
        )
        require(self.clip[0] < self.clip[1], f"clip: expected [lowest, highest] in HU, got {list(self.clip)}")
        require(self.divide > 0, f"divide: expected a number above 0, got {self.divide}")
        require(
            self.separate_above is None or self.separate_above >= 1,
            f"separate_above: expected a ratio of 1 or more, got {self.separate_above}",
        )
        names = [channel.name for channel in self.image_channels]
        require(
            len(set(names)) == len(names) > 0,
            f"channels: expected at least one, each with a name of its own, got {', '.join(names) or 'none'}",
        )
        require(
            self.channels is None or not self.crop_to_body,
            "crop_to_body: the body is found in one CT; leave this out where channels are listed",
        )

    @property
    def image_channels(self) -> tuple[ImageChannel, ...]:
        """The channels of the image, also where it is one CT."""
        return ONE_CT if self.channels is None else self.channels

    def scaled(self, hounsfield: Intensities) -> Intensities:
        """Clipped and scaled HU, an array or a tensor like the one given, which stays as it is."""
        return (hounsfield.clip(*self.clip) - self.subtract) / self.divide


@dataclass(frozen=True)
class Inference:
    """How patches are planned, scored and blended.

    Attributes:
        patch_size: voxels along (z, y, x).
        overlap: shared fraction of neighbouring patches, in [0, 1).
        activation: what turns logits into scores.
        blend: whether scores ("probabilities") or logits are averaged where patches overlap.
        mirror_axes: axes (0 = z, 1 = y, 2 = x) that mirroring, an option of the session, may flip.
        patch_positions: "stride" places patches at multiples of the stride, the last one at the border;
            "even" at equal distances of at most the stride, as nnU-Net does.
        padding: where an axis shorter than the patch is filled up: at its "end", or on "both sides".
        weighting: what the voxels of a patch count where patches overlap: those in its middle more, as a
            "gaussian" says, or all the same ("constant").
        mirroring: what is flipped: "patches", whose mirrored scores are blended like those of further
            patches; or "images", on which patches are placed anew, and whose blended scores are averaged.
        second_softmax: whether the blended scores of each image go through a softmax once more, as in
            Med-DANet version 2.
    """

    patch_size: tuple[int, int, int]
    overlap: float = 0.5
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    blend: Literal["probabilities", "logits"] = "probabilities"
    mirror_axes: tuple[int, ...] = ()
    patch_positions: Literal["stride", "even"] = "stride"
    padding: Literal["end", "both sides"] = "end"
    weighting: Literal["gaussian", "constant"] = "gaussian"
    mirroring: Literal["patches", "images"] = "patches"
    second_softmax: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no package can mean."""
        require(min(self.patch_size) > 0, f"patch_size: expected voxels above 0, got {list(self.patch_size)}")
        require(0 <= self.overlap < 1, f"overlap: expected a fraction in [0, 1), got {self.overlap}")
        require(
            set(self.mirror_axes) <= {0, 1, 2} and len(set(self.mirror_axes)) == len(self.mirror_axes),
            f"mirror_axes: expected some of 0 (z), 1 (y), 2 (x), each once, got {list(self.mirror_axes)}",
        )
        require(
            not self.second_softmax or (self.activation, self.blend) == ("softmax", "probabilities"),
            "second_softmax: expected false, unless probabilities of the activation softmax are blended",
        )
        require(
            self.mirroring == "patches" or self.weighting == "constant",
            "mirroring: images are mirrored with the weighting constant only; a gaussian has no middle voxel",
        )

    @property
    def decides_by_winner(self) -> bool:
        """Whether a voxel belongs to the structure with the highest score, and to no other."""
        return self.activation == "softmax"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a model except its weights.

    Attributes:
        name: short name typed by users, such as dodnet-mots.
        source: where the weights come from (url, sha256 of the original file).
        tasks: in the order of the network's task indices.
        uncoded: structures of the tasks that structures.json does not know; they show as plain tissue.
        decision: the network that says which slices a task needs; None keeps all slices.
        training: free record of data, recipe, seed and measured figures.
        files: the package's files by their path inside it; filled by `save_model`.
    """

    format: Literal["partialseg-model"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    name: str
    version: str
    title: str
    modality: Literal["CT", "MR"] = "CT"
    license: str
    citation: str = ""
    source: dict[str, str] = field(default_factory=dict)
    network: NetworkSpec
    preprocessing: Preprocessing
    inference: Inference
    tasks: tuple[Task, ...]
    uncoded: tuple[str, ...] = ()
    decision: DecisionSpec | None = None
    training: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that no package can mean."""
        self._check_names()
        self._check_channels()
        self._check_structures()
        self._check_decision()
        self._check_files()

    def _check_names(self) -> None:
        require(
            is_model_name(self.name),
            "name: expected letters, digits, '.', '_' and '-' only, no '.' at the end, and not the name of a "
            f"device, got {self.name!r}",
        )
        require(bool(self.tasks), "tasks: expected at least one task, got none")
        names = [task.name for task in self.tasks]
        require(
            len(set(names)) == len(names), f"tasks: every task needs its own name, got {', '.join(names)}"
        )
        for structure in self.uncoded:
            require(
                re.fullmatch(r"[^\W_]\w*", structure) is not None and structure == structure.lower(),
                f"uncoded: expected names of lower-case letters, digits and '_', got {structure!r}",
            )

    def _check_channels(self) -> None:
        given, read = len(self.preprocessing.image_channels), self.network.arguments.get("in_channels", 1)
        require(
            given == read,
            f"preprocessing.channels: expected one for each of the network's {read} image channels "
            f"(network.arguments.in_channels), got {given}",
        )

    def _check_structures(self) -> None:
        for index, task in enumerate(self.tasks):
            try:
                task.check_structures((*load_structures(), *self.uncoded))
            except InputError as error:
                raise InputError(f"tasks[{index}].{error}") from None

    def _check_decision(self) -> None:
        if self.decision is not None:
            given = len(self.decision.thresholds)
            require(
                given == len(self.tasks),
                f"decision.thresholds: expected one for each of {len(self.tasks)} tasks, got {given}",
            )

    def _check_files(self) -> None:
        for path in self.files:
            require(
                is_inside(path),
                f"files.{path}: the path leads outside the package; use plain file names inside it",
            )
            require(
                str(PurePosixPath(path)).lower() != MANIFEST_FILE,
                f"files.{path}: the manifest cannot state its own checksum; leave it out of its files",
            )

    @property
    def weights_sha256(self) -> str:
        """Checksum of the weights: the identity of the model in reports."""
        return self.files[WEIGHTS_FILE].sha256


def is_model_name(name: str) -> bool:
    """Whether a model can be called so, and a folder as the model, on every operating system."""
    is_plain = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?", name) is not None
    return is_plain and allowed(name) == name


def is_inside(path: str) -> bool:
    """Whether a path from a manifest or an archive stays in the package, on every operating system."""
    windows = PureWindowsPath(path)
    rooted = PurePosixPath(path).is_absolute() or bool(windows.drive or windows.root)
    is_plain = path.isprintable() and "\\" not in path  # what is no text cannot be printed either
    return bool(path) and is_plain and not rooted and ".." not in PurePosixPath(path).parts


def manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as plain JSON values, the exact inverse of `manifest_from_json`."""
    return to_json(manifest)


def manifest_from_json(value: Any) -> Manifest:
    """Check plain JSON values and build the manifest.

    Raises:
        InputError: it starts with the place, as in "tasks[2].structures.livre: unknown structure; …".
    """
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f'format: expected "{FORMAT}"; this is not the manifest of a model package')
    version = value.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"format_version: made by a newer PartialSeg (format {version}, this one reads "
            f"{FORMAT_VERSION}); update PartialSeg"
        )
    return from_json(Manifest, value)


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check the `model.json` of a package folder; the weights are not touched.

    Raises:
        InputError: no such folder, no manifest in it, not JSON, or a fault in a field.
    """
    path = Path(folder) / MANIFEST_FILE
    try:
        contents = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a model package: it has no {MANIFEST_FILE}; check the path"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    return parse_manifest(contents, path)


def parse_manifest(contents: bytes, place: str | Path) -> Manifest:
    """Check the contents of a `model.json`.

    Args:
        contents: the bytes of the file.
        place: where they were read, for messages.

    Raises:
        InputError: not JSON, or a fault in a field.
    """
    try:
        manifest = manifest_from_json(json.loads(contents.decode("utf-8")))
        for name in (WEIGHTS_FILE, DECISION_FILE) if manifest.decision else (WEIGHTS_FILE,):
            require(name in manifest.files, f"files: no entry for {name}; export the package again")
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or a number of thousands of digits
        raise InputError(f"{place} is not valid JSON ({error}); copy or export the package again") from None
    return manifest
