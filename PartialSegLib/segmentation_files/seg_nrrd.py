"""Slicer's segmentation file (.seg.nrrd): overlapping segments with names, colours and terminology.

The layout is that of Slicer's vtkMRMLSegmentationStorageNode: a NRRD file
(teem.sourceforge.net/nrrd/format.html) whose first axis, if there are overlaps, runs over layers; key/value
fields "Segment0_Name" etc. say which value in which layer is which segment.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files.output_files import replacing
from ..images.nrrd import nrrd_geometry, write_nrrd
from ..masks.boxes import EMPTY_BOX, Box, box_around, is_empty
from ..masks.packed_mask import PackedMask
from ..segmentation import Key, Segmentation
from ..structures import structure_or_tissue, terminology_entry
from ..volume import explained_reading_errors

TASK_TAG = "PartialSeg.Task"
STRUCTURE_TAG = "PartialSeg.Structure"
PROVENANCE_TAG = "PartialSeg.Provenance"
VOXELS_TAG = "PartialSeg.Voxels"
"""How many there were; where a segment has another number, somebody has edited it."""
_ALGORITHM = "PartialSeg"
_ALGORITHM_NAME_LENGTH = 64
_LARGEST_LABEL = 255


def write_seg_nrrd(path: Path, segmentation: Segmentation) -> None:
    """Write a segmentation as Slicer does, plane by plane, so that no full volume is ever held.

    Args:
        path: A .seg.nrrd file.
        segmentation: What to write; the masks share as few layers as their overlaps allow.

    Raises:
        InputError: When the file cannot be written.
    """
    labels = _assign_labels(segmentation)
    num_layers = max((layer for layer, _ in labels.values()), default=0) + 1
    geometry = nrrd_geometry(np.dtype(np.uint8), segmentation.shape, segmentation.affine, num_layers)
    planes = _planes(segmentation, labels, num_layers)
    with replacing(path) as temporary:
        write_nrrd(temporary, geometry, planes, _fields(segmentation, labels))


def read_seg_nrrd(path: Path) -> Segmentation:
    """Read a .seg.nrrd file, of this project or of Slicer.

    Args:
        path: A .seg.nrrd file.

    Returns:
        Its segments; task and structure come from our tags, else, as for copies made in Slicer, the task is
        "" and the structure the segment's name in lower case with "_". Provenance is that of the first
        segment which has some.

    Raises:
        InputError: When the file cannot be read, holds no segments or places one in a layer it has not.
    """
    import SimpleITK

    from ..images.itk_image import affine_of, itk_name

    with explained_reading_errors(path):
        if not path.exists():
            raise InputError("There is no such file; check the path.")
        try:
            image = SimpleITK.ReadImage(itk_name(path))
            fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
        except (RuntimeError, TypeError) as error:  # the latter of names that are no UTF-8
            raise InputError("The file is truncated or damaged; copy or save it again.") from error
        if image.GetDimension() != 3:
            raise InputError(
                f"The image is {image.GetDimension()}-D, a 3-D one is needed; save it in Slicer again."
            )
        layers = SimpleITK.GetArrayViewFromImage(image).reshape((*image.GetSize()[::-1], -1))
        segments = _read_segments(fields, layers.shape[3])
        provenance = next((segment.provenance for segment in segments if segment.provenance), {})
        segmentation = Segmentation(layers.shape[:3], affine_of(image), provenance)
        for segment in segments:
            mask = layers[..., segment.layer] == segment.label
            segmentation.add(*_unused_key(segment, segmentation), None, mask)
    return segmentation


def segment_tags(task: str, structure: str, voxels: int, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a segment by name, in files as in Slicer's scene.

    Args:
        task: Name of the task.
        structure: Id of the structure.
        voxels: Number of voxels of the segment.
        provenance: What made it, as plain JSON.

    Returns:
        Terminology, DICOM algorithm type and name, and ours; the provenance is one JSON text.
    """
    record = json.dumps(provenance, sort_keys=True)
    algorithm = f"{_ALGORITHM} {provenance.get('model', '')}".strip()
    return {
        "DICOM.SegmentAlgorithmName": algorithm[:_ALGORITHM_NAME_LENGTH],
        "DICOM.SegmentAlgorithmType": "AUTOMATIC",
        PROVENANCE_TAG: record.replace("|", r"\u007c"),  # "|" separates tags in files
        STRUCTURE_TAG: structure,
        TASK_TAG: task,
        VOXELS_TAG: str(voxels),
        "TerminologyEntry": terminology_entry(structure_or_tissue(structure)),
    }


@dataclass(frozen=True)
class _Segment:
    name: str
    key: Key
    layer: int
    label: int
    provenance: dict[str, Any]


def _read_segments(fields: dict[str, str], num_layers: int) -> list[_Segment]:
    found = (re.fullmatch(r"Segment(\d+)_ID", key) for key in fields)
    numbers = sorted(int(match[1]) for match in found if match)
    if not numbers:
        raise InputError("The file holds no segments; give a .seg.nrrd file as Slicer saves it.")
    return [_read_segment(fields, number, index, num_layers) for index, number in enumerate(numbers)]


def _read_segment(fields: dict[str, str], number: int, index: int, num_layers: int) -> _Segment:
    """Read the segment of that number; before version 4.11 Slicer gave each a layer without saying so."""
    tags = dict(tag.partition(":")[::2] for tag in fields.get(f"Segment{number}_Tags", "").split("|"))
    name = re.sub(r"\W+", "_", fields.get(f"Segment{number}_Name", "").lower()).strip("_") or "segment"
    layer = _whole_number(fields, f"Segment{number}_Layer", index)
    if not 0 <= layer < num_layers:
        raise InputError(
            f"The segment {name} should be in layer {layer}, but the layers are 0 to {num_layers - 1}; "
            "save the segmentation in Slicer again."
        )
    return _Segment(
        name=name,
        key=(tags.get(TASK_TAG, ""), tags.get(STRUCTURE_TAG) or name),
        layer=layer,
        label=_whole_number(fields, f"Segment{number}_LabelValue", 1),
        provenance=_provenance(tags.get(PROVENANCE_TAG, "")),
    )


def _whole_number(fields: dict[str, str], field: str, default: int) -> int:
    try:
        return int(fields.get(field, default))
    except ValueError as error:
        raise InputError(
            f"{field} is '{fields[field]}', not a whole number; save the segmentation in Slicer again."
        ) from error


def _provenance(tag: str) -> dict[str, Any]:
    """What a tag says; nothing if it was damaged, since the segments are good without it."""
    try:
        provenance = json.loads(tag)
    except ValueError:
        return {}
    return provenance if isinstance(provenance, dict) else {}


def _unused_key(segment: _Segment, segmentation: Segmentation) -> Key:
    """Its own key, or one by its name: copies made in Slicer have the tags of the original."""
    if segment.key not in segmentation:
        return segment.key
    taken = {structure for _, structure in segmentation}
    numbered = (f"{segment.name}_{number}" for number in itertools.count(2))
    return "", next(name for name in itertools.chain([segment.name], numbered) if name not in taken)


def _assign_labels(segmentation: Segmentation) -> dict[Key, tuple[int, int]]:
    """Give each mask a layer, the first in which it overlaps no other, and a label value within it."""
    layers: list[list[PackedMask]] = []
    labels = {}
    for key in segmentation:
        mask = segmentation.packed(key)
        free = (n for n, taken in enumerate(layers) if _has_room(mask, taken))
        layer = next(free, len(layers))
        if layer == len(layers):
            layers.append([])
        layers[layer].append(mask)
        labels[key] = (layer, len(layers[layer]))
    return labels


def _has_room(mask: PackedMask, taken: list[PackedMask]) -> bool:
    return len(taken) < _LARGEST_LABEL and not any(map(mask.overlaps, taken))


def _planes(
    segmentation: Segmentation, labels: dict[Key, tuple[int, int]], num_layers: int
) -> Iterator[np.ndarray]:
    """Axial planes (y, x, layer) of label values."""
    depth, height, width = segmentation.shape
    for z in range(depth):
        plane = np.zeros((height, width, num_layers), np.uint8)
        for key, (layer, label) in labels.items():
            packed = segmentation.packed(key)
            mask = packed.plane(z)
            if mask is not None:
                _, rows, columns = packed.box
                plane[rows, columns, layer][mask] = label
        yield plane


def _fields(segmentation: Segmentation, labels: dict[Key, tuple[int, int]]) -> dict[str, str]:
    """Key/value fields of the file, named and ordered as Slicer does."""
    fields: dict[str, str] = {}
    boxes = _layer_boxes(segmentation, labels)
    for number, (key, (layer, label)) in enumerate(labels.items()):
        extent = " ".join(f"{part.start} {part.stop - 1}" for part in boxes[layer][::-1])
        place = {"Extent": extent, "Layer": str(layer), "LabelValue": str(label)}
        segment = _segment_fields(segmentation, key) | place
        fields |= {f"Segment{number}_{name}": value for name, value in sorted(segment.items())}
    return fields | {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": _reference_geometry(segmentation),
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }


def _layer_boxes(segmentation: Segmentation, labels: dict[Key, tuple[int, int]]) -> dict[int, Box]:
    """The box around all masks of each layer; up to 5.6 Slicer clips a layer to its first one's."""
    boxes: dict[int, Box] = {}
    for key, (layer, _) in labels.items():
        boxes[layer] = box_around(boxes.get(layer, EMPTY_BOX), segmentation.packed(key).box)
    depth, height, width = segmentation.shape
    whole = (slice(0, depth), slice(0, height), slice(0, width))
    return {layer: whole if is_empty(box) else box for layer, box in boxes.items()}


def _segment_fields(segmentation: Segmentation, key: Key) -> dict[str, str]:
    tags = segment_tags(*key, segmentation.voxel_count(key), segmentation.provenance)
    return {
        "Color": " ".join(f"{channel / 255:.6g}" for channel in segmentation.structure_of(key).color),
        "ColorAutoGenerated": "0",
        "ID": segmentation.identifier(key),
        "Name": segmentation.display_name(key),
        "NameAutoGenerated": "0",
        "Tags": "".join(f"{name}:{value}|" for name, value in tags.items()),
    }


def _reference_geometry(segmentation: Segmentation) -> str:
    """Slicer's conversion parameter for the grid of the image: IJK to RAS row by row, then the extent."""
    matrix = [f"{value:.17g}" for value in segmentation.affine[:, [2, 1, 0, 3]].ravel()]
    extent = [str(bound) for size in segmentation.shape[::-1] for bound in (0, size - 1)]
    return (
        f"Reference image geometry|{''.join(f'{word};' for word in matrix + extent)}|The grid of the image.&"
    )
