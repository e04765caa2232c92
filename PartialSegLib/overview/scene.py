"""What `overview` draws: an image and its masks turned for display, the body, and the planes to show.

Display orientation is "IPL": indices grow towards feet, back and left, so that planes shown with the first
row on top look as radiologists expect them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from math import ceil

import numpy as np
from scipy import ndimage

from ..evaluation.comparable_masks import reoriented
from ..masks.body import BODY_THRESHOLD_HU, largest_object
from ..masks.boxes import Box, bounding_box, box_around, widened
from ..segmentation import Key, Segmentation
from ..volume import Volume, reorient
from .surface_view import Body

ORIENTATION = "IPL"
BONE_ABOVE_HU = 220
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
        box: where the cropped mask lies in the image (z, y, x).
        mask: cropped boolean mask (z, y, x).
        is_inner: whether it lies within an organ, as lesions and vessels do.
    """

    name: str
    color: tuple[float, float, float]
    volume_ml: float
    box: Box
    mask: np.ndarray
    is_inner: bool

    @property
    def start(self) -> np.ndarray:
        """Index of the first voxel of the cropped mask (z, y, x)."""
        return np.array([extent.start for extent in self.box])

    def plane(self, axis: int, index: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return one plane of the full mask of an image of this shape."""
        plane = np.zeros(np.delete(shape, axis), bool)
        if self.box[axis].start <= index < self.box[axis].stop:
            inside = tuple(extent for number, extent in enumerate(self.box) if number != axis)
            plane[inside] = self.mask.take(index - self.box[axis].start, axis)
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
        turned = reoriented(segmentation, ORIENTATION)
        findings = [_finding(turned, key) for key in turned]
        self.findings = sorted(findings, key=lambda finding: finding.is_inner)
        self._coarse_steps = [max(1, round(COARSE_MM / spacing)) for spacing in self.image.spacing]

    @cached_property
    def field_of_view(self) -> Box:
        """Box of voxels around the body and all findings."""
        z, y, x = (
            slice(extent.start * step, extent.stop * step)
            for extent, step in zip(bounding_box(self._coarse_body), self._coarse_steps, strict=True)
        )
        margins = [ceil(MARGIN_MM / step) for step in self.image.spacing]
        body = widened((z, y, x), margins, self.image.shape)
        return reduce(box_around, (finding.box for finding in self._found), body)

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
        dense = self._coarse_image > BODY_THRESHOLD_HU
        body = largest_object(ndimage.binary_opening(dense, np.ones((1, 5, 5), bool)))
        if body is None:
            return np.ones_like(dense)
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


def _finding(segmentation: Segmentation, key: Key) -> Finding:
    """A mask of a segmentation in display orientation."""
    structure = segmentation.structure_of(key)
    red, green, blue = (channel / 255 for channel in structure.color)
    name, volume_ml = segmentation.display_name(key), segmentation.volume_ml(key)
    is_inner = structure.region is not None
    return Finding(name, (red, green, blue), volume_ml, *segmentation.cropped(key), is_inner)
