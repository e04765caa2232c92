"""The image of a case: its channels, read from one file or several, and whether they belong together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...files.file_names import expanded
from ...images.nifti import read_nifti_channels
from ...images.voxel_type import compact
from ...volume import Volume, explained_reading_errors, image_suffix, read_volume, reorient
from .collection import Case, Collection

GRID_TOLERANCE = 0.1
"""Largest distance of the corners of two volumes of a case, in voxels of the finest axis."""


@dataclass(frozen=True)
class CaseImage:
    """Where the channels of a case are.

    Attributes:
        paths: of the files, in the order of the channels; a NIfTI file of four axes holds several.
        channels: names that the data set gives to all of them.
    """

    paths: tuple[Path, ...]
    channels: tuple[str, ...]

    def read(self) -> list[Volume]:
        """All channels of all files, whatever their number and grids.

        Raises:
            InputError: a file cannot be read.
        """
        any_modality = self.channels != ("CT",)
        return [volume for path in self.paths for volume in read_channels(path, any_modality)]

    def faults(self, volumes: Sequence[Volume]) -> Iterator[tuple[str, str]]:
        """What keeps volumes from being the channels of one image: a few words, and what was found."""
        if len(volumes) != len(self.channels):
            yield "number of channels differs", f"{len(volumes)}; expected {', '.join(self.channels)}"
            return
        first = volumes[0]
        for name, volume in zip(self.channels[1:], volumes[1:], strict=True):
            if not on_one_grid(first, volume):
                where = [f"{product(one.shape)} {placement(one)}" for one in (first, volume)]
                yield "channels on different grids", f"{self.channels[0]} {where[0]}, {name} {where[1]}"


def case_image(collection: Collection, case: Case) -> CaseImage:
    """The image of a case of a collection."""
    return CaseImage(
        tuple(collection.path(path) for path in case.images), collection.data_sets[case.data_set].channels
    )


def read_channels(path: Path, any_modality: bool = False) -> list[Volume]:
    """The volumes along the fourth axis of a NIfTI file; one of everything else that `read_volume` reads.

    Raises:
        InputError: as `read_volume`.
    """
    path = expanded(path)
    is_nifti = image_suffix(path) in (".nii", ".nii.gz") and path.is_file()
    if not is_nifti or path.stat().st_size == 0:
        return [read_volume(path, any_modality=any_modality)]
    with explained_reading_errors(path):
        channels, affine = read_nifti_channels(path)
        return [Volume(compact(channel), affine) for channel in channels]


def image_content(channels: Sequence[Volume]) -> str:
    """Hash of the voxels of an image, the same for every order and direction of its axes."""
    digest = hashlib.sha256()
    for channel in channels:
        upright = reorient(channel, "SAR").array
        digest.update(str((upright.shape, upright.dtype.name)).encode())
        for plane in upright:
            digest.update(plane.tobytes())
    return digest.hexdigest()


def on_one_grid(one: Volume, other: Volume) -> bool:
    """Whether two volumes of a case have the same voxels at the same places, but for rounded headers."""
    return one.same_geometry(other, GRID_TOLERANCE * min(one.spacing))


def file_stamps(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of all files in a folder.

    Raises:
        OSError: it cannot be read, or is not there.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]


def placement(volume: Volume) -> str:
    """Direction of the axes (z, y, x), spacing and first voxel, which tell two grids apart."""
    origin = ", ".join(f"{value:.1f}" for value in volume.affine[:3, 3])
    return f"{volume.orientation} {product(volume.spacing)} mm from ({origin})"


def product(values: Sequence[float]) -> str:
    """Values along the axes, as in 14 × 24 × 22."""
    return " × ".join(f"{value:g}" for value in values)
