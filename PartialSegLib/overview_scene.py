"""What `overview` draws: an image and its masks turned for display, the body, and the planes to show.

Display orientation is "IPL": indices grow towards feet, back and left, so that planes shown with the first
row on top look as radiologists expect them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from .segmentation import Key, Segmentation
from .surface_view import Body
from .volume import Volume, reorient

ORIENTATION = "IPL"
BODY_ABOVE_HU, BONE_ABOVE_HU = -300, 220
COARSE_MM = 2.5
MARGIN_MM = 12.0
SKIN_COLOR, BONE_COLOR = (0.62, 0.70, 0.78), (0.93, 0.90, 0.82)


@dataclass(frozen=True, eq=False)
class Finding:
    """One mask in display orientation.

    Attributes:
        name: for the legend.
        color: red, green, blue; 0 to 1.
        volume_ml: 0 when nothing was found.
        start: index of the first voxel of the cropped mask (z, y, x).
        mask: cropped boolean mask (z, y, x).
        is_inner: whether it lies within an organ, as lesions and vessels do.
    """

    name: str
    color: tuple[float, float, float]
    volume_ml: float
    start: np.ndarray
    mask: np.ndarray
    is_inner: bool

    def plane(self, axis: int, index: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return one plane of the full mask of an image of this shape."""
        plane = np.zeros(np.delete(shape, axis), bool)
        if 0 <= index - self.start[axis] < self.mask.shape[axis]:
            start, size = np.delete(self.start, axis), np.delete(self.mask.shape, axis)
            box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
            plane[box] = self.mask.take(index - self.start[axis], axis)
        return plane


class Scene:
    """An image and what was found in it, ready to be drawn.

    Args:
        volume: the CT in HU.
        segmentation: masks on its grid.

    Attributes:
        image: the volume in display orientation.
        findings: the masks, those within organs last so that they are drawn on top.
    """

    def __init__(self, volume: Volume, segmentation: Segmentation) -> None:
        self.image = reorient(volume, ORIENTATION)
        findings = [_finding(self.image, segmentation, key) for key in segmentation]
        self.findings = sorted(findings, key=lambda finding: finding.is_inner)
        self._coarse_steps = [max(1, round(COARSE_MM / spacing)) for spacing in self.image.spacing]

    @cached_property
    def field_of_view(self) -> tuple[slice, slice, slice]:
        """Box of voxels around the body and all findings."""
        boxes = [(np.array(finding.start), finding.mask.shape) for finding in self._found]
        body = ndimage.find_objects(self._coarse_body.astype(np.int8))[0]
        margin = np.ceil(MARGIN_MM / np.array(self.image.spacing))
        first = np.array([part.start for part in body]) * self._coarse_steps - margin
        last = np.array([part.stop for part in body]) * self._coarse_steps + margin
        first = np.min([first, *(start for start, _ in boxes)], axis=0).clip(0).astype(int)
        last = np.max([last, *(start + shape for start, shape in boxes)], axis=0).astype(int)
        z, y, x = (slice(a, min(b, n)) for a, b, n in zip(first, last, self.image.shape, strict=True))
        return z, y, x

    def best_index(self, axis: int) -> int:
        """Index of the plane across an axis that shows most, each finding relative to its largest area."""
        score = np.zeros(self.image.shape[axis])
        for finding in self._found:
            area = finding.mask.sum(axis=tuple({0, 1, 2} - {axis}))
            score[finding.start[axis] : finding.start[axis] + len(area)] += area / area.max()
        field = self.field_of_view[axis]
        return int(score.argmax()) if score.any() else (field.start + field.stop) // 2

    def bodies(self) -> list[Body]:
        """Findings, bones and skin as bodies in space."""
        spacing = np.array(self.image.spacing)
        organ_opacity = 0.6 if any(finding.is_inner for finding in self._found) else 0.9
        found = [
            Body(f.mask, f.start * spacing, spacing, f.color, 1.0 if f.is_inner else organ_opacity, 0.2)
            for f in self._found
        ]
        origin, coarse = np.zeros(3), spacing * self._coarse_steps
        skin = Body(self._coarse_body, origin, coarse, SKIN_COLOR, 0.02, 0.35)
        bones = Body(self._coarse_bones, origin, coarse, BONE_COLOR, 0.4)
        return [*found, bones, skin]

    @property
    def _found(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.volume_ml > 0]

    @cached_property
    def _coarse_image(self) -> np.ndarray:
        return self.image.array[tuple(slice(None, None, step) for step in self._coarse_steps)]

    @cached_property
    def _coarse_body(self) -> np.ndarray:
        """The largest object denser than air, without the table; everything when there is none."""
        dense = self._coarse_image > BODY_ABOVE_HU
        opened = ndimage.binary_opening(dense, np.ones((1, 5, 5), bool))
        labels, count = ndimage.label(opened)
        if count == 0:
            return np.ones_like(dense)
        body = labels == np.bincount(labels.ravel())[1:].argmax() + 1
        return np.stack([ndimage.binary_fill_holes(plane) for plane in body])

    @cached_property
    def _coarse_bones(self) -> np.ndarray:
        """Dense parts of the body that belong to no finding."""
        bones = (self._coarse_image > BONE_ABOVE_HU) & self._coarse_body
        for finding in self._found:
            index = np.argwhere(finding.mask) + finding.start
            bones[tuple((index // self._coarse_steps).T.clip(0, np.array(bones.shape)[:, None] - 1))] = False
        labels, _ = ndimage.label(bones)
        sizes = np.bincount(labels.ravel())
        return np.asarray((sizes > 30)[labels] & (labels > 0))


def _finding(image: Volume, segmentation: Segmentation, key: Key) -> Finding:
    box, mask = segmentation.cropped(key)
    start = np.array([part.start for part in box])
    if mask.size:
        affine = segmentation.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        cropped = reorient(Volume(mask, affine), ORIENTATION)
        mask = cropped.array
        start = np.rint(np.linalg.solve(image.affine, cropped.affine[:, 3])[:3]).astype(int)
    structure = segmentation.structure_of(key)
    red, green, blue = (channel / 255 for channel in structure.color)
    name, volume_ml = segmentation.display_name(key), segmentation.volume_ml(key)
    return Finding(name, (red, green, blue), volume_ml, start, mask, structure.region is not None)
