"""DICOM segmentations (PS3.3, A.51): one object beside the series that was segmented, for a PACS or a viewer.

highdicom writes them; it is not installed by itself: `pip install highdicom`.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..files.file_names import expanded
from ..files.output_files import replacing
from ..images.dicom_series import is_dicom, read_dicom_grid, storage_class
from ..masks.boxes import is_empty
from ..segmentation import Key, Segmentation
from ..structures import Code, structure_or_tissue

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept

SEGMENTATION_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
"""Segmentation storage (DICOM PS3.4, B.5)."""
MANUFACTURER = "PartialSeg"
_LONGEST_TEXT = 64  # of DICOM's value representation LO
_SERIES_NUMBERS_BEHIND = 1000
_GRID_TOLERANCE_MM = 0.01


def check_dicom_seg(path: Path, source: str | Path | None) -> Path:
    """Return the folder that a DICOM segmentation can refer to; for callers who want to know before the work.

    Args:
        path: Where it shall be written.
        source: The folder with the series that was segmented.

    Raises:
        InputError: When there is no such folder, highdicom is not installed, or an image would be replaced.
    """
    if path.is_file() and not (is_dicom(path) and storage_class(path) == SEGMENTATION_CLASS):
        raise InputError(f"{path} is no DICOM segmentation and would be replaced; choose another name.")
    if source is None or not expanded(source).is_dir():
        raise InputError(
            "A DICOM segmentation refers to the images that were segmented: give a folder with their DICOM "
            f"series, not {source or 'nothing'}; or write .seg.nrrd or .nii.gz."
        )
    check_highdicom()
    return expanded(source)


def check_highdicom() -> None:
    """Check that DICOM segmentations can be written and read.

    Raises:
        InputError: When highdicom is not installed.
    """
    if find_spec("highdicom") is None:
        raise InputError(
            "DICOM segmentations need highdicom, which is not installed; run: pip install highdicom"
        )


def write_dicom_seg(
    path: Path,
    segmentation: Segmentation,
    source: str | Path | None,
    *,
    any_modality: bool = False,
    series: str | None = None,
) -> None:
    """Write a segmentation as one DICOM object with binary segments, which may overlap.

    It belongs to the study of its source, whose patient it names, and gets identifiers of its own, so that no
    two files are equal. It refers to the slices between the first and the last with any mask, or to the first
    one where nothing was found, and needs a byte for each voxel of these and each structure.

    Args:
        path: A .dcm file.
        segmentation: What to write.
        source: The folder with the series that was segmented.
        any_modality: As of `read_volume`.
        series: As of `read_volume`, where the folder holds several.

    Raises:
        InputError: When highdicom is missing, the source is no such folder, its grid is another one or lacks
            what has to be repeated, there is no mask, an image would be replaced, or the file cannot
            be written.
    """
    folder = check_dicom_seg(path, source)
    if not len(segmentation):
        raise InputError("A DICOM segmentation has at least one segment; choose a task or a structure.")
    files, shape, affine = read_dicom_grid(folder, any_modality=any_modality, series=series)
    if shape != segmentation.shape or np.abs(affine - segmentation.affine).max() > _GRID_TOLERANCE_MM:
        raise InputError(
            f"The segmentation lies on another grid than the series in {folder}; give the series that was "
            "segmented."
        )
    slices = _slices_with_masks(segmentation)
    masks = np.zeros((slices.stop - slices.start, *shape[1:], len(segmentation)), np.uint8)
    for index, key in enumerate(segmentation):
        (planes, rows, columns), mask = segmentation.cropped(key)
        masks[planes.start - slices.start : planes.stop - slices.start, rows, columns, index] = mask
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom finds fault with values of the source that it repeats
            distance = float(np.linalg.norm(affine[:3, 0]))
            written = _dicom_object(files[slices], distance, masks, segmentation)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The series in {folder} lacks what a DICOM segmentation has to repeat ({error}); write "
            ".seg.nrrd or .nii.gz instead."
        ) from error
    with replacing(path) as temporary:
        written.save_as(temporary)


def _slices_with_masks(segmentation: Segmentation) -> slice:
    """From the first slice with any mask to the last, or the first of all."""
    boxes = [segmentation.packed(key).box for key in segmentation]
    found = [box[0] for box in boxes if not is_empty(box)]
    if not found:
        return slice(0, 1)
    return slice(min(planes.start for planes in found), max(planes.stop for planes in found))


def _dicom_object(files: list[Path], distance: float, masks: np.ndarray, segmentation: Segmentation) -> Any:
    """The object with the masks (z, y, x, structure) of these slices, so many mm apart."""
    import highdicom
    from pydicom import dcmread

    images = [dcmread(file, stop_before_pixels=True, force=True) for file in files]
    for image in images:  # which is repeated, too, and often wrong
        image.SpacingBetweenSlices = f"{distance:.10g}"
    # texts of the first are repeated: in UTF-8, since highdicom knows not all ways to name other alphabets
    images[0].decode()
    images[0].SpecificCharacterSet = "ISO_IR 192"
    made_by = segmentation.provenance
    model = f"{made_by.get('model', '')} {made_by.get('model_version', '')}".strip() or "unknown model"
    descriptions = [
        _description(number, segmentation.display_name(key), key, made_by)
        for number, key in enumerate(segmentation, start=1)
    ]
    return highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=masks,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        omit_empty_frames=bool(masks.any()),
        series_instance_uid=highdicom.UID(),
        series_number=int(images[0].get("SeriesNumber") or 0) + _SERIES_NUMBERS_BEHIND,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model[:_LONGEST_TEXT],
        software_versions=str(made_by.get("software", MANUFACTURER))[:_LONGEST_TEXT],
        device_serial_number=str(made_by.get("weights_sha256", "unknown"))[:_LONGEST_TEXT],
        series_description=f"{MANUFACTURER} {model}"[:_LONGEST_TEXT],
        content_label="SEGMENTATION",
        content_description="Research use only",
    )


def _description(number: int, label: str, key: Key, made_by: dict[str, Any]) -> SegmentDescription:
    """A segment with the codes of its structure, as Slicer and dcmqi write them."""
    import highdicom
    from pydicom.sr.codedict import codes

    structure = structure_or_tissue(key[1])
    region = [_concept(structure.region)] if structure.region else None
    if region and structure.region_modifier:
        region[0].AnatomicRegionModifierSequence = [_concept(structure.region_modifier)]
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label[:_LONGEST_TEXT],
        segmented_property_category=_concept(structure.category),
        segmented_property_type=_concept(structure.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=f"{MANUFACTURER} {made_by.get('model', '')}".strip()[:_LONGEST_TEXT],
            family=codes.DCM.ArtificialIntelligence,
            version=str(made_by.get("model_version", "unknown")),
        ),
        tracking_uid=highdicom.UID(),
        tracking_id="/".join(key)[:_LONGEST_TEXT],
        anatomic_regions=region,
        display_color=highdicom.color.CIELabColor.from_rgb(*structure.color),
    )
    if structure.type_modifier:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(structure.type_modifier)]
    return description


def _concept(code: Code) -> CodedConcept:
    import highdicom

    return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning[:_LONGEST_TEXT])
