"""A segmentation: what was found in one image, one boolean mask per task and structure, on its grid."""

import itertools
from collections import Counter
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from .errors import InputError
from .files.file_names import allowed, folded
from .images.affine import check_affine
from .masks.boxes import Box, is_empty
from .masks.packed_mask import PackedMask
from .structures import Structure, structure_or_tissue

T = TypeVar("T")
Key = tuple[str, str]
"""(task, structure)."""
_MASKS_IN_REPR = 6


@dataclass(eq=False)
class Segmentation:
    """Masks of one image, kept packed and cropped to where they are: many of them need little memory.

    `segmentation["liver_tumor"]` is the full mask of a structure, `segmentation["liver", "liver_tumor"]` that
    of one task where several tasks found it. It is a mapping: iteration is over (task, structure), and `in`
    is true of all that `[]` takes.

    Attributes:
        shape: Number of voxels of the image along (z, y, x).
        affine: (4, 4) from array index order (k, j, i, 1) to RAS mm, as in `Volume`.
        provenance: Where the masks come from (model, versions, settings), as plain JSON; travels into files.
        ignored: Where a label map says nothing, by nnU-Net's label "ignore"; None for nowhere. Not written.
        is_part: Whether the grid is a part of the image's, outside of which nothing was found, as that of a
            DICOM segmentation.
        label_values: The value that masks get in a label map, see `label_values`; without that of every mask
            they are numbered.

    Raises:
        InputError: When the affine places no rectangular grid.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)
    ignored: PackedMask | None = None
    label_values: Mapping[Key, int] = field(default_factory=dict, repr=False)
    is_part: bool = False
    _masks: dict[Key, PackedMask] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the affine."""
        self.affine = np.array(self.affine, dtype=float)
        check_affine(self.affine)

    def add(self, task: str, structure: str, box: Box | None, mask: np.ndarray) -> None:
        """Add what one task found of one structure; an empty mask says that nothing was found.

        Args:
            task: Name of the task.
            structure: Id of the structure.
            box: Where the mask lies in the image: slices (z, y, x) with explicit starts and stops; None if it
                covers the whole image.
            mask: Array (z, y, x) of the size of the box, boolean or of 0 and 1; copied.

        Raises:
            InputError: When the mask does not fit the box or the box the image, holds other values, or is
                there already.
        """
        mask = np.asarray(mask)
        corners = [(part.start, part.stop) for part in box] if box else [(0, size) for size in self.shape]
        inside = all(
            0 <= start <= stop <= size for (start, stop), size in zip(corners, self.shape, strict=True)
        )
        if not inside or mask.shape != tuple(stop - start for start, stop in corners):
            raise InputError(
                f"A mask of shape {mask.shape} does not fill {corners} of an image of {self.shape}."
            )
        if mask.dtype != bool and not ((mask == 0) | (mask == 1)).all():
            raise InputError(
                f"The mask of {structure} holds other values than 0 and 1; give a boolean array, such as "
                "scores > 0.5 or labels == 1."
            )
        if (task, structure) in self._masks:
            raise InputError(f"The segmentation holds {structure} of the task {task} already.")
        z, y, x = (slice(*ends) for ends in corners)
        self._masks[task, structure] = PackedMask((z, y, x), mask.astype(bool, copy=False))

    def keys(self) -> list[Key]:
        """Return (task, structure) of every mask, in the order in which they were added."""
        return list(self._masks)

    def values(self) -> ValuesView[np.ndarray]:
        """Return the full masks (z, y, x) in the order of `keys()`, each made when it is reached."""
        return ValuesView(self)

    def items(self) -> ItemsView[Key, np.ndarray]:
        """Return pairs of (task, structure) and full mask, as `values()` does."""
        return ItemsView(self)

    def get(self, key: str | Key, default: T | None = None) -> np.ndarray | T | None:
        """Return a mask as `[]` does, or the default where there is none.

        Raises:
            InputError: When several tasks found the structure.
        """
        return self[key] if self._matches(key) else default

    def __contains__(self, key: object) -> bool:
        """Say whether `[]` takes this: (task, structure), or a structure that one task alone found."""
        return len(self._matches(key)) == 1

    def __iter__(self) -> Iterator[Key]:
        """Iterate over `keys()`."""
        return iter(self._masks)

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self._masks)

    def __repr__(self) -> str:
        """Return shape and volumes, the first few of many."""
        parts = [f"{task}/{name} {self.volume_ml((task, name)):.1f} ml" for task, name in self]
        more = [f"{len(parts) - _MASKS_IN_REPR} more"] if len(parts) > _MASKS_IN_REPR else []
        shape = " × ".join(map(str, self.shape))
        return f"Segmentation({', '.join([shape, *parts[:_MASKS_IN_REPR], *more])})"

    def __getitem__(self, key: str | Key) -> np.ndarray:
        """Return the full boolean mask (z, y, x) of a structure, or of (task, structure), made on demand.

        Raises:
            InputError: When there is no such mask or several tasks found the structure; lists the choices.
        """
        return self.packed(key).filled(self.shape)

    def cropped(self, key: str | Key) -> tuple[Box, np.ndarray]:
        """Return where a mask lies and the mask (z, y, x) within that box; errors as for `[]`."""
        packed = self.packed(key)
        return packed.box, packed.unpack()

    def packed(self, key: str | Key) -> PackedMask:
        """Return a mask as it is kept; errors as for `[]`."""
        return self._masks[self._resolve(key)]

    def voxel_count(self, key: str | Key) -> int:
        """Return the number of voxels in a mask."""
        return self.packed(key).voxel_count

    def volume_ml(self, key: str | Key) -> float:
        """Return the volume of a mask in ml."""
        return self.voxel_count(key) * abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    def bounding_box_mm(self, key: str | Key) -> tuple[tuple[float, float], ...] | None:
        """Return ((x0, x1), (y0, y1), (z0, z1)) in RAS mm around a mask's voxels, None for an empty mask."""
        packed = self.packed(key)
        if is_empty(packed.box):
            return None
        mask = packed.unpack()
        rows = np.nonzero(mask.any(axis=2))
        voxels = mask[rows]
        ends = voxels.argmax(axis=1), voxels.shape[1] - 1 - voxels[:, ::-1].argmax(axis=1)
        indices = np.concatenate([np.stack([*rows, columns], axis=1) for columns in ends])
        indices += [part.start for part in packed.box]
        axes, origin = self.affine[:3, :3], self.affine[:3, 3]
        centers, half = indices @ axes.T + origin, np.abs(axes).sum(axis=1) / 2
        limits = zip(centers.min(axis=0) - half, centers.max(axis=0) + half, strict=True)
        return tuple((float(low), float(high)) for low, high in limits)

    def structure_of(self, key: str | Key) -> Structure:
        """Return the structure of a mask, with its name, colour and codes."""
        return structure_or_tissue(self._resolve(key)[1])

    def display_name(self, key: str | Key) -> str:
        """Return the name of a mask for people; the task is added where several tasks found the structure."""
        task, structure = self._resolve(key)
        name = structure_or_tissue(structure).name
        return name if self._is_unambiguous(structure) else f"{name} ({task})"

    def identifier(self, key: str | Key) -> str:
        """Return the name of a mask for files: "liver_tumor", or "liver-liver_tumor" as in `display_name`.

        What could lead to another folder, or Windows allows in no file name, becomes "_". Where an earlier
        mask has this name, but for capital letters, a number is added.
        """
        return self._identifiers()[self._resolve(key)]

    def _identifiers(self) -> dict[Key, str]:
        tasks = Counter(structure for _, structure in self._masks)
        names: dict[Key, str] = {}
        taken: set[str] = set()
        for task, structure in self._masks:
            file = allowed(structure)
            name = plain = file if tasks[structure] == 1 else f"{one_word(task)}-{file}"
            numbers = itertools.count(2)
            while folded(name) in taken:
                name = f"{plain}_{next(numbers)}"
            taken.add(folded(name))
            names[task, structure] = name
        return names

    def _is_unambiguous(self, structure: str) -> bool:
        return Counter(found for _, found in self._masks)[structure] == 1

    def _matches(self, key: object) -> list[Key]:
        return [found for found in self._masks if key in (found, found[1])]

    def _resolve(self, key: str | Key) -> Key:
        matches = self._matches(key)
        if len(matches) == 1:
            return matches[0]
        choices = ", ".join(f"{task}/{structure}" for task, structure in matches or self._masks) or "nothing"
        if matches:
            raise InputError(f"Several tasks found {key} ({choices}); give (task, structure).")
        name = "/".join(map(str, key)) if isinstance(key, tuple) else key
        raise InputError(f"The segmentation has no {name}; it holds {choices}.")


def one_word(text: str) -> str:
    """Return a name as part of identifiers and file names: what could mislead there becomes "_"."""
    return "".join(letter if letter.isalnum() or letter in "._" else "_" for letter in text)


def writing_order(keys: Iterable[Key]) -> list[Key]:
    """Return masks as they are written into a label map, where the later one wins.

    Organs come first, then structures within an organ (vessels), then lesions; equals stay as they were.
    """
    return sorted(keys, key=lambda key: structure_or_tissue(key[1]).overlap_rank)
