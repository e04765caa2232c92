"""Writing NRRD files (.nrrd, .seg.nrrd), after teem.sourceforge.net/nrrd/format.html.

Written out here because Teem, through which ITK and Slicer write them, may lose the end of a file on a full
disk without a word.
"""

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

_TYPES = {"uint8": "unsigned char", "int16": "short", "float32": "float", "float64": "double"}


def nrrd_geometry(
    dtype: np.dtype, shape: tuple[int, int, int], affine: np.ndarray, num_layers: int = 1
) -> list[str]:
    """Return the header lines that say what the voxels are and where.

    Args:
        dtype: Type of the voxels.
        shape: Number of voxels along (z, y, x).
        affine: (4, 4), from array index order (k, j, i, 1) to RAS mm.
        num_layers: Number of values per voxel; more than one make a first axis of kind "list", as in Slicer.
    """
    depth, height, width = shape
    columns = affine[:3, [2, 1, 0, 3]] * [[-1], [-1], [1]] + 0.0  # RAS to LPS, without negative zeros
    vectors = [f"({','.join(repr(float(value)) for value in column)})" for column in columns.T]
    layers, none, kind = (f"{num_layers} ", "none ", "list ") if num_layers > 1 else ("", "", "")
    return [
        f"type: {_TYPES.get(dtype.name, dtype.name)}",
        f"dimension: {4 if num_layers > 1 else 3}",
        "space: left-posterior-superior",
        f"sizes: {layers}{width} {height} {depth}",
        f"space directions: {none}{' '.join(vectors[:3])}",
        f"kinds: {kind}domain domain domain",
        "endian: little",
        f"space origin: {vectors[3]}",
    ]


def write_nrrd(
    path: Path, geometry: Sequence[str], planes: Iterable[np.ndarray], fields: dict[str, str] | None = None
) -> None:
    """Write a compressed NRRD file plane by plane; equal input gives equal bytes.

    Args:
        path: The file.
        geometry: What `nrrd_geometry` returns.
        planes: The voxels of one axial plane after the other, (y, x) or (y, x, layer).
        fields: Key/value pairs for the header.
    """
    pairs = [f"{key}:={_escaped(value)}" for key, value in (fields or {}).items()]
    lines = ["NRRD0004", *geometry, "encoding: gzip", *pairs]
    with open(path, "wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode())
        with gzip.GzipFile("", "wb", compresslevel=4, fileobj=file, mtime=0) as stream:
            for plane in planes:
                stream.write(plane.astype(plane.dtype.newbyteorder("<"), copy=False).tobytes())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")
