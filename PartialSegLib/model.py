"""Model: a manifest and its network with weights; loading and saving model packages."""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .errors import InputError
from .files.file_names import expanded
from .files.output_files import replacing
from .manifest import (
    DECISION_FILE,
    LICENSE_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    DecisionSpec,
    FileEntry,
    Manifest,
    NetworkSpec,
    manifest_from_json,
    manifest_to_json,
    read_manifest,
)
from .networks import NETWORKS, PartialLabelNetwork
from .networks.decision_network import DecisionNetwork
from .packages.installed import find_package
from .packages.package_files import check_file, file_sha256, refuse_to_overwrite
from .sentences import suggestion

MOST_OF_A_KIND = 10_000  # layers or channels; more would only keep the computer busy
Contents = dict[str, bytes | dict[str, Tensor]]
"""Of the files of a package, by name; weights become a safetensors file."""
_UNBUILDABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What the constructor of a network may raise when a manifest gives it arguments that make no sense."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded package.

    Attributes:
        manifest: what the package says of itself.
        network: in evaluation mode, float32, on the CPU, without gradients.
        folder: where the package lies.
        decision: the network that says which slices a task needs, likewise; None where the package has none.
    """

    manifest: Manifest
    network: PartialLabelNetwork
    folder: Path
    decision: nn.Module | None = None

    def __repr__(self) -> str:
        """Return name, version and tasks; the network would fill pages."""
        manifest = self.manifest
        return f"Model({manifest.name} {manifest.version}: {', '.join(task.name for task in manifest.tasks)})"

    @property
    def sha256(self) -> str:
        """Checksum of the weights: the identity of the model in reports."""
        return self.manifest.weights_sha256


def as_model(given: Model | str | Path) -> Model:
    """Return a model as it is, and load what a name or path leads to.

    Raises:
        InputError: When it is neither, or cannot be loaded.
    """
    if isinstance(given, str | Path):
        return load_model(given)
    if not isinstance(given, Model):
        raise InputError(
            f"A model is what load_model(name) returns, or its name or path, not a {type(given).__name__}."
        )
    return given


def build_network(spec: NetworkSpec) -> PartialLabelNetwork:
    """The network without storage, on torch's "meta" device: only names and shapes of its weights are known.

    Raises:
        InputError: unknown architecture, one whose optional packages are missing, or arguments its class does
            not take.
    """
    if spec.architecture not in NETWORKS:
        advice = suggestion(spec.architecture, NETWORKS)
        raise InputError(f"network.architecture: unknown network {spec.architecture!r}; {advice}")
    if (number := _largest_number(spec.arguments)) > MOST_OF_A_KIND:
        raise InputError(f"network.arguments: {number} is more than any network has; check them.")
    try:
        with torch.device("meta"):
            network = NETWORKS[spec.architecture](**spec.arguments)
        for step in network.patch_multiple:
            operator.index(step)  # strides of any kind may have made it
        return network
    except ImportError as error:
        raise InputError(f"network.architecture: {error}.") from None
    except _UNBUILDABLE as error:
        raise InputError(
            f"network.arguments: {spec.architecture} cannot be built with them ({error})"
        ) from None


def _largest_number(value: Any) -> float:
    """The largest of the numbers in plain JSON values."""
    if isinstance(value, dict | list | tuple):
        parts = value.values() if isinstance(value, dict) else value
        return max(map(_largest_number, parts), default=0)
    return value if isinstance(value, int | float) else 0


def build_decision_network(spec: DecisionSpec) -> nn.Module:
    """The decision network without storage, on torch's "meta" device.

    Raises:
        InputError: arguments that its class does not take.
    """
    channels, choices = len(spec.offsets), len(spec.thresholds)
    try:
        with torch.device("meta"):
            return DecisionNetwork(channels, choices, spec.input_size, **spec.arguments)
    except _UNBUILDABLE as error:
        raise InputError(
            f"decision.arguments: {spec.architecture} cannot be built with them ({error})"
        ) from None


def load_model(name_or_path: str | Path) -> Model:
    """Load a package by its installed name or its path; weights stored as float16 become float32.

    Raises:
        InputError: unknown model, a fault in its manifest, a file missing, changed or outside the package, or
            weights that do not fit the network.
    """
    folder = find_package(name_or_path)
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        check_file(folder, name, entry)
    try:
        network = build_network(manifest.network)
        check_tasks_served(network, manifest)
        decision = build_decision_network(manifest.decision) if manifest.decision else None
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    _load_weights(network, folder / WEIGHTS_FILE)
    if decision is not None:
        _load_weights(decision, folder / DECISION_FILE)
    return Model(manifest, network, folder, decision)


def _load_weights(network: nn.Module, path: Path) -> None:
    """Give a network the weights of a file, as float32, and make it ready for use.

    They are copied: as long as one is a part of the mapped file, Windows lets nobody remove that, and
    elsewhere a network drive that goes away would end the process.

    Raises:
        InputError: the file is no safetensors file, or its weights do not fit.
    """
    try:
        stored = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file ({error}); import the model again.") from None
    weights = {name: _copy(stored.pop(name)) for name in list(stored)}
    try:
        check_weights_fit(network, weights)
    except InputError as error:
        raise InputError(f"{path.parent}: {error}") from None
    network.load_state_dict(weights, assign=True)
    network.requires_grad_(False).eval()


def _copy(value: Tensor) -> Tensor:
    return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)


def check_weights_fit(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Compare names and shapes of the weights with those of the network.

    Raises:
        InputError: naming the first weight that is missing, superfluous or of another shape.
    """
    expected = network.state_dict()
    misfit = f"the weights do not fit {type(network).__name__}:"
    advice = "check network.arguments, or import the model again."
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise InputError(f"{misfit} {name} is missing; {advice}")
        if name not in expected:
            raise InputError(f"{misfit} {name} is not part of the network; {advice}")
        given, wanted = tuple(weights[name].shape), tuple(expected[name].shape)
        if given != wanted:
            raise InputError(f"{misfit} {name} has shape {given}, the network expects {wanted}; {advice}")


def save_model(
    folder: str | Path,
    manifest: Manifest,
    state_dict: Mapping[str, Tensor],
    license_text: str,
    dtype: torch.dtype | None = None,
    decision: Mapping[str, Tensor] | None = None,
) -> Manifest:
    """Write a package; it appears under its name only when complete, and replaces a package that is there.

    Args:
        folder: the package's folder.
        manifest: its `files` are filled in here.
        state_dict: the weights under the network's own names.
        license_text: for the LICENSE file.
        dtype: storage type, such as torch.float16; None keeps the weights as they are.
        decision: weights of the decision network that the manifest describes; without them the package is
            written without one.

    Returns:
        The manifest as written.

    Raises:
        InputError: weights do not fit or are not finite, the network cannot serve the manifest's tasks or
            patch size, the manifest describes no decision network, or the place cannot be written to.
    """
    folder = expanded(folder)
    refuse_to_overwrite(folder)
    network = build_network(manifest.network)
    check_weights_fit(network, state_dict)
    check_tasks_served(network, manifest)
    contents: Contents = {WEIGHTS_FILE: _stored(state_dict, dtype), LICENSE_FILE: license_text.encode()}
    if decision is None:
        manifest = dataclasses.replace(manifest, decision=None)
    else:
        contents[DECISION_FILE] = _decision_weights(manifest.decision, decision)
    return _write_package(folder, dataclasses.replace(manifest, files={}), contents)


def save_decision(folder: str | Path, spec: DecisionSpec, weights: Mapping[str, Tensor]) -> Manifest:
    """Give a package that is there a decision network, or replace the one it has; nothing else changes.

    Args:
        folder: the package's folder.
        spec: what its manifest shall say of the network.
        weights: of the network, stored as float16.

    Returns:
        The manifest as written.

    Raises:
        InputError: there is no package, the weights do not fit, the thresholds are not one for each task, or
            the place cannot be written to.
    """
    folder = expanded(folder)
    manifest = read_manifest(folder)
    contents: Contents = {DECISION_FILE: _decision_weights(spec, weights)}
    try:
        manifest = dataclasses.replace(manifest, decision=spec)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    return _write_package(folder, manifest, contents)


def _write_package(folder: Path, manifest: Manifest, contents: Contents) -> Manifest:
    """Write files and the manifest, which gets their checksums beside those that it has; return it."""
    manifest_from_json(json.loads(json.dumps(manifest_to_json(manifest))))  # refuses what could not be read
    files = dict(manifest.files)
    with replacing(folder) as temporary:
        temporary.mkdir()
        for name, data in contents.items():
            file = temporary / name
            if isinstance(data, bytes):
                file.write_bytes(data)
            else:
                _save_weights(data, file)
            files[name] = FileEntry(file_sha256(file), file.stat().st_size)
        manifest = dataclasses.replace(manifest, files=files)
        text = json.dumps(manifest_to_json(manifest), indent=2, ensure_ascii=False)
        (temporary / MANIFEST_FILE).write_text(f"{text}\n", encoding="utf-8", newline="\n")
    return manifest


def _save_weights(weights: dict[str, Tensor], path: Path) -> None:
    try:
        safetensors.torch.save_file(weights, path)
    except safetensors.SafetensorError as error:  # what the system refuses comes as a text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def _decision_weights(spec: DecisionSpec | None, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `decision.safetensors` shall hold."""
    if spec is None:
        raise InputError("There are weights of a decision network, but the manifest has no field decision.")
    check_weights_fit(build_decision_network(spec), weights)
    return _stored(weights, torch.float16)


def _stored(state_dict: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Weights as safetensors takes them; floating-point ones as dtype where one is given.

    What shares its memory with others, or lies in a larger one, is copied; the rest is not.
    """
    weights: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in state_dict.items():
        stored = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        if not stored.isfinite().all():
            raise InputError(
                f"The weights {name} are not finite as {stored.dtype}; use an earlier checkpoint."
            )
        stored = stored.detach().cpu().contiguous()
        memory = stored.untyped_storage()
        if memory.data_ptr() in taken or memory.nbytes() != stored.nbytes:
            stored = stored.clone()
        taken.add(stored.untyped_storage().data_ptr())
        weights[name] = stored
    return weights


def check_tasks_served(network: PartialLabelNetwork, manifest: Manifest) -> None:
    """Refuse tasks, channels and patches that the network does not have or cannot process.

    Raises:
        InputError: naming the entry of the manifest at fault.
    """
    if len(manifest.tasks) > network.num_tasks:
        raise InputError(f"tasks: {len(manifest.tasks)} named, but the network has {network.num_tasks}.")
    patch_size, multiple = manifest.inference.patch_size, network.patch_multiple
    if min(multiple) < 1:
        raise InputError(f"network.arguments: patches in multiples of {list(multiple)} voxels make no sense.")
    if any(size % step for size, step in zip(patch_size, multiple, strict=True)):
        raise InputError(
            f"inference.patch_size: {list(patch_size)} are no multiples of {list(multiple)} voxels."
        )
    for index, task in enumerate(manifest.tasks):
        for structure, channel in task.structures.items():
            if channel >= network.num_structures:
                place, channels = f"tasks[{index}].structures.{structure}", network.num_structures
                raise InputError(
                    f"{place}: channel {channel} asked for, but the head has {channels} channels."
                )
