"""One picture of a result: three cuts with outlines, the surfaces in space, and a legend with volumes.

The patient's right is on the left, as radiologists look at images, and all panels share one scale.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..files.output_files import replacing
from ..segmentation import Segmentation
from ..sentences import RESEARCH_USE
from ..volume import Volume
from .scene import Scene
from .surface_view import render_surfaces

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW_HU = (-150, 250)
FILL_OPACITY = 0.28
SURFACE_PIXELS = 260
BACKGROUND, TEXT, FAINT = "#0b0f14", "#e8edf2", "#8a97a6"
LEGEND_INCHES, TITLE_INCHES, FOOTER_INCHES, GAP_INCHES = 3.0, 0.5, 0.35, 0.06
CUTS = (("axial", "S", "APRL"), ("coronal", "A", "SIRL"), ("sagittal", "R", "SIAP"))
"""Per array axis: the plane, the patient axis across it, and what is up, down, left and right."""
SCALE_BAR_MM = 50


def write_overview(path: str | Path, volume: Volume, segmentation: Segmentation, title: str = "") -> None:
    """Draw a segmentation over its image.

    Each cut goes through the plane that shows most of what was found.

    Args:
        path: a picture file, such as overview.png.
        volume: the CT in HU that was segmented.
        segmentation: masks on the grid of the volume.
        title: a line above the picture.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    check_drawing()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=130, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    _draw(figure, Scene(volume, segmentation), title)
    with replacing(path) as temporary:
        figure.savefig(temporary, facecolor=BACKGROUND)


def check_drawing() -> None:
    """Find out whether pictures can be drawn, before the work that they shall show.

    Raises:
        InputError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise InputError("Pictures need matplotlib; install it with: pip install matplotlib")


def _draw(figure: Figure, scene: Scene, title: str) -> None:
    """Lay out panels on one scale: axial above coronal, surfaces above sagittal, the legend beside them."""
    extent = _extent_mm(scene)
    height = float(np.clip(extent[0], 0.5 * extent[1], 1.5 * extent[2]))
    scale = min(8.5 / (extent[1] + height), 11.5 / (extent[1] + extent[2]))  # inches per mm
    left, right, upper, lower = (scale * length for length in (extent[2], extent[1], extent[1], height))
    right = max(right, 0.7 * left)
    size = (
        left + right + LEGEND_INCHES + GAP_INCHES,
        upper + lower + TITLE_INCHES + FOOTER_INCHES + GAP_INCHES,
    )
    figure.set_size_inches(*size)

    def panel(x: float, y: float, width: float, height: float) -> Axes:
        axes = figure.add_axes((x / size[0], y / size[1], width / size[0], height / size[1]))
        axes.set_axis_off()
        return axes

    bottom, middle = FOOTER_INCHES, FOOTER_INCHES + lower + GAP_INCHES
    column = left + GAP_INCHES
    indices = [scene.best_index(axis) for axis in range(3)]
    axial = panel(0, middle, left, upper)
    _draw_cut(axial, scene, 0, indices)
    _draw_scale_bar(axial)
    _draw_cut(panel(0, bottom, left, lower), scene, 1, indices)
    _draw_cut(panel(column, bottom, right, lower), scene, 2, indices)
    _draw_surfaces(panel(column, middle, right, upper), scene)
    _draw_legend(panel(column + right, bottom, LEGEND_INCHES, size[1] - bottom - TITLE_INCHES), scene)
    figure.text(0.012, 1 - 0.3 / size[1], title, color=TEXT, fontsize=13, va="center", parse_math=False)
    figure.text(0.012, 0.16 / size[1], RESEARCH_USE, color=FAINT, fontsize=9, va="center")


def _extent_mm(scene: Scene) -> list[float]:
    """Size of the field of view (z, y, x), mm."""
    sizes = (part.stop - part.start for part in scene.field_of_view)
    return [size * spacing for size, spacing in zip(sizes, scene.image.spacing, strict=True)]


def _draw_cut(axes: Axes, scene: Scene, axis: int, indices: list[int]) -> None:
    """Draw one plane of the image, masks filled and outlined, and where the other planes cross it."""
    shape, index = scene.image.shape, indices[axis]
    rows, columns = (a for a in range(3) if a != axis)
    view = scene.field_of_view[rows], scene.field_of_view[columns]
    spacing = scene.image.spacing[rows], scene.image.spacing[columns]
    plane = scene.image.array.take(index, axis)[view]
    extent = (0, plane.shape[1] * spacing[1], plane.shape[0] * spacing[0], 0)
    low, high = WINDOW_HU
    axes.imshow(plane, "gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
    for finding in scene.findings:
        _draw_mask(axes, finding.plane(axis, index, shape)[view], finding.color, spacing)
    axes.axhline((indices[rows] - view[0].start + 0.5) * spacing[0], color=TEXT, lw=0.5, alpha=0.25)
    axes.axvline((indices[columns] - view[1].start + 0.5) * spacing[1], color=TEXT, lw=0.5, alpha=0.25)
    _draw_marks(axes, scene, axis, index)


def _draw_mask(
    axes: Axes, mask: np.ndarray, color: tuple[float, float, float], spacing: tuple[float, float]
) -> None:
    if not mask.any():
        return
    padded = np.pad(mask, 1).astype(float)  # closes outlines at the border
    y, x = ((np.arange(n) - 0.5) * s for n, s in zip(padded.shape, spacing, strict=True))
    axes.contourf(x, y, padded, levels=[0.5, 2], colors=[color], alpha=FILL_OPACITY)
    axes.contour(x, y, padded, levels=[0.5], colors=[color], linewidths=1.3)


def _draw_marks(axes: Axes, scene: Scene, axis: int, index: int) -> None:
    plane, letter, marks = CUTS[axis]
    vertical = ((0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom"))
    horizontal = ((0.012, 0.5, "left", "center"), (0.988, 0.5, "right", "center"))
    for mark, (x, y, ha, va) in zip(marks, (*vertical, *horizontal), strict=True):
        _label(axes, x, y, mark, fontsize=11, ha=ha, va=va)
    center = (np.array(scene.image.shape) - 1) / 2
    center[axis] = index
    position = (scene.image.affine @ [*center, 1])["RAS".index(letter)]
    _label(axes, 0.012, 0.985, f"{plane}  {letter} {position:+.0f} mm", fontsize=9, va="top")


def _label(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write text at a place in a panel, 0 to 1, readable on any grey."""
    from matplotlib.patheffects import withStroke

    stroke = [withStroke(linewidth=2, foreground=BACKGROUND)]
    style |= {"transform": axes.transAxes, "path_effects": stroke, "parse_math": False}
    axes.text(x, y, text, color=TEXT, **style)


def _draw_scale_bar(axes: Axes) -> None:
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    start = 0.97 * width - SCALE_BAR_MM
    axes.plot([start, start + SCALE_BAR_MM], [0.97 * height] * 2, color=TEXT, lw=2, solid_capstyle="butt")
    _label(
        axes, (start + SCALE_BAR_MM / 2) / width, 0.04, f"{SCALE_BAR_MM / 10:.0f} cm", fontsize=9, ha="center"
    )


def _draw_surfaces(axes: Axes, scene: Scene) -> None:
    from matplotlib.colors import to_rgb

    step = max(*_extent_mm(scene), SURFACE_PIXELS) / SURFACE_PIXELS  # at least 1 mm
    axes.imshow(render_surfaces(scene.bodies(), step, to_rgb(BACKGROUND)), interpolation="bilinear")


def _draw_legend(axes: Axes, scene: Scene) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(max(24, len(scene.findings) + 2), 0)
    for row, finding in enumerate(scene.findings, start=1):
        is_found = finding.volume_ml > 0
        color = TEXT if is_found else FAINT
        text = f"{max(finding.volume_ml, 0.1):,.1f} ml" if is_found else "not found"
        axes.plot([0.08], [row], "s", color=finding.color, markersize=10, alpha=1 if is_found else 0.35)
        axes.text(0.15, row, finding.name, color=color, fontsize=9, va="center", parse_math=False)
        axes.text(0.97, row, text, color=color, fontsize=9, va="center", ha="right")
