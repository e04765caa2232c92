"""The commands `models`, `info`, `import` and `install`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from ..batch.images import is_label_map
from ..errors import InputError
from ..files.file_names import expanded
from ..manifest import MANIFEST_FILE, Manifest, Preprocessing, read_manifest
from ..packages.installation import AlreadyInstalledError, install_package
from ..packages.installed import find_package, installed_packages
from ..packages.model_facts import HeldOut, held_out
from ..segmentation_files.dicom_seg_reading import holds_dicom_seg
from ..segmentation_files.formats import read_segmentation
from ..segmentation_files.label_tables import is_table
from ..segmentation_files.mask_folders import FOLDER_TABLE
from ..sentences import suggestion
from ..volume import Volume, check_extent, check_hounsfield, read_volume
from .terminal import announced, progress_bar, write_line, write_table

if TYPE_CHECKING:
    from ..engines.flops import PatchFlops


def models(options: Namespace) -> None:
    """List the installed packages with their tasks."""
    rows = []
    for _, manifest in installed_packages():
        size = f"{_megabytes(manifest):.1f} MB"
        first = [f"{manifest.name} {manifest.version}", manifest.license, size]
        for task in manifest.tasks:
            rows.append([*first, task.name, ", ".join(task.structures)])
            first = ["", "", ""]
    write_table(["MODEL", "LICENCE", "SIZE", "TASK", "STRUCTURES"], rows)


def info(options: Namespace) -> None:
    """Say what a volume, a segmentation or a model package is."""
    path = expanded(options.file)
    if not path.exists():
        _describe_package(_installed_package(options.file))
    elif (path / MANIFEST_FILE).exists() or path.name == MANIFEST_FILE:
        _describe_package(find_package(path.parent if path.name == MANIFEST_FILE else options.file))
    elif _is_segmentation(path):
        _describe_segmentation(path)
    else:
        _describe_volume(path, options.series)


def _is_segmentation(path: Path) -> bool:
    is_slicers = path.name.lower().endswith((".seg.nrrd", ".seg.nhdr"))
    return is_slicers or is_table(path / FOLDER_TABLE) or is_label_map(path) or holds_dicom_seg(path)


def import_model(options: Namespace) -> None:
    """Turn an official checkpoint into a model package."""
    from ..importers import import_checkpoint

    if (expanded(options.output) / MANIFEST_FILE).exists() and not options.replace:
        raise InputError(
            f"There is a model package in {options.output} already; choose another folder, or give --replace."
        )
    with announced(f"Importing {options.checkpoint}"):
        manifest = import_checkpoint(
            options.name, options.checkpoint, options.output, options.fold, options.configuration
        )
    write_line(f"{options.output}: {manifest.name} {manifest.version}, {_megabytes(manifest):.1f} MB")
    if (members := manifest.network.members) > 1:
        write_line(
            f"It holds {members} networks, whose logits are averaged: it takes {members} times as long as "
            "one. --fold chooses among them."
        )


def install(options: Namespace) -> None:
    """Copy a model package among the installed ones."""
    try:
        with progress_bar("byte") as show:
            folder = install_package(options.source, replace=options.replace, on_progress=show)
    except AlreadyInstalledError as error:
        raise InputError(f"{error} On the command line: --replace.") from None
    manifest = read_manifest(folder)
    write_line(f"{folder}: {manifest.name} {manifest.version}, {_megabytes(manifest):.1f} MB")


def _installed_package(name: str) -> Path:
    try:
        return find_package(name)
    except InputError:
        models = suggestion(name, [manifest.name for _, manifest in installed_packages()])
        raise InputError(
            f"There is no file or model {name}; check the path, or the name of the model: {models}."
        ) from None


def _describe_volume(path: Path, series: str | None) -> None:
    volume = read_volume(path, any_modality=True, series=series)
    _write_facts({
        "volume": str(path),
        **_grid_facts(volume),
        "values": f"{volume.array.min():g} to {volume.array.max():g} ({volume.array.dtype})",
        "size of a patient": check_extent(volume) or "plausible",
        "CT in HU": check_hounsfield(volume) or "plausible",
    })  # fmt: skip


def _describe_segmentation(path: Path) -> None:
    segmentation = read_segmentation(path)
    grid = Volume(np.broadcast_to(np.uint8(0), segmentation.shape), segmentation.affine)
    _write_facts({
        "segmentation": str(path),
        **_grid_facts(grid),
        **{key: _one_line(value) for key, value in segmentation.provenance.items()},
    })  # fmt: skip
    write_line()
    rows = [[*key, f"{segmentation.volume_ml(key):.1f}"] for key in segmentation]
    write_table(["TASK", "STRUCTURE", "ML"], rows, right=[2])


def _grid_facts(volume: Volume) -> dict[str, str]:
    return {
        "size (x, y, z)": " × ".join(str(size) for size in volume.shape[::-1]),
        "spacing (x, y, z)": " × ".join(f"{spacing:g}" for spacing in volume.spacing[::-1]) + " mm",
        "orientation": f"{volume.orientation[::-1]} (x, y, z grow towards)",
        "first voxel (RAS)": ", ".join(f"{value:.1f}" for value in volume.affine[:3, 3]) + " mm",
    }


def _one_line(value: Any) -> str:
    """A value of the provenance; of a nested one what is set, short enough for a line."""
    if not isinstance(value, dict):
        return str(value)
    parts = ((key, _few_words(part)) for key, part in value.items() if part)
    return shorten(", ".join(f"{key} {words}" for key, words in parts if words), 100, placeholder=" …")


def _few_words(part: Any) -> str:
    """A plain value, the name of a model, or how much was visited; nothing of all else."""
    if not isinstance(part, dict | list):
        return str(part)
    if isinstance(part, dict) and "visited" in part and "of" in part:
        return f"{part['visited']} of {part['of']}"
    return str(part.get("model", "")) if isinstance(part, dict) else ""


def _describe_package(folder: Path) -> None:
    manifest = read_manifest(folder)
    preprocessing, inference = manifest.preprocessing, manifest.inference
    measured = held_out(manifest)
    facts = {key: value for key, value in manifest.training.items() if key != "held_out" or measured is None}
    arguments = ", ".join(f"{name}={value}" for name, value in manifest.network.arguments.items())
    _write_facts({
        "model": f"{manifest.name} {manifest.version}: {manifest.title}",
        "folder": str(folder),
        "licence": manifest.license,
        "citation": manifest.citation,
        "network": f"{manifest.network.architecture}({arguments})",
        **_network_facts(manifest),
        "size": f"{_megabytes(manifest):.1f} MB",
        "orientation (z, y, x)": preprocessing.orientation,
        "spacing (z, y, x)": f"{_product(preprocessing.spacing)} mm",
        **_intensity_facts(preprocessing),
        "patch (z, y, x)": f"{_product(inference.patch_size)} voxels, overlap {inference.overlap:g}",
        **{f"source: {key}": value for key, value in manifest.source.items()},
        **{f"training: {key}": str(value) for key, value in facts.items()},
    })  # fmt: skip
    write_line()
    write_table(["TASK", "STRUCTURES"], [[task.name, ", ".join(task.structures)] for task in manifest.tasks])
    if measured is not None:
        _write_held_out(measured)


def _intensity_facts(preprocessing: Preprocessing) -> dict[str, str]:
    """What becomes of the intensities: the window of a CT, or how each of several channels is normalised."""
    window = "{:g} to {:g}".format(*preprocessing.clip)
    if preprocessing.channels is None:
        return {"HU": window}
    ways = {"HU": f"{window} HU", "z-score": "z-score"}
    listed = (f"{channel.name} ({ways[channel.normalization]})" for channel in preprocessing.channels)
    return {"channels": ", ".join(listed)}


def _write_held_out(measured: HeldOut) -> None:
    """The figures that `training.held_out` recorded."""
    write_line(f"\nMeasured on {measured.phantoms} held-out phantoms:")
    rows = [
        [name, *(str(figures.get(key, "–")) for key in ("cases", "dice", "worst", "false_ml"))]
        for name, figures in measured.figures.items()
    ]
    write_table(["TASK/STRUCTURE", "CASES", "DICE", "WORST", "FALSE ML"], rows, right=[1, 2, 3, 4])


def _network_facts(manifest: Manifest) -> dict[str, str]:
    """Size and arithmetic of the network, which is built without storage."""
    from ..engines.flops import count_patch_flops
    from ..model import build_network, check_tasks_served

    network = build_network(manifest.network)
    check_tasks_served(network, manifest)
    in_channels = manifest.network.arguments.get("in_channels", 1)
    try:
        flops = count_patch_flops(network, manifest.inference.patch_size, len(manifest.tasks), in_channels)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"network.arguments: the network cannot take a patch ({error}).") from None
    return {
        "parameters": f"{sum(parameter.numel() for parameter in network.parameters()):,}",
        "GFLOPs per patch": _flops_shares(flops),
    }


def _flops_shares(flops: PatchFlops) -> str:
    """All tasks together, the features that they share, and what one task adds."""
    heads = " to ".join(dict.fromkeys(map(_giga, (min(flops.heads), max(flops.heads)))))
    features = f"features {_giga(flops.features)} ({flops.features / flops.total:.1%})"
    return f"{_giga(flops.total)} for all tasks: {features}, each task {heads}"


def _giga(count: int) -> str:
    """Thousand millions, to three digits or one decimal."""
    return f"{count / 1e9:,.1f}" if count >= 1e11 else f"{count / 1e9:.3g}"


def _megabytes(manifest: Manifest) -> float:
    return sum(entry.bytes for entry in manifest.files.values()) / 1e6


def _product(values: tuple[float, ...]) -> str:
    return " × ".join(f"{value:g}" for value in values)


def _write_facts(facts: dict[str, str]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        if value:
            write_line(f"{name.ljust(width)}  {value}")
