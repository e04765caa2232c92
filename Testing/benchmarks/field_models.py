"""The models of `make bench-field`: networks of the published sizes with weights anyone can regenerate.

STU-Net-B is written as nnU-Net leaves a trained model, and our importer makes a package of that folder; so
both sides have the same plans and weights. A random head would name one class everywhere: its rows are scaled
until the logits of every class have mean 0 and deviation 1 over a patch of a phantom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import benchmark_networks
import torch
from benchmark_networks import Official
from field_cases import AXES
from nnunet_folder import plans_with, write_model_folder
from parity_rules import reference_weight
from torch import Tensor, nn

from PartialSegLib.importers import import_checkpoint
from PartialSegLib.importers.checkpoint import official_name
from PartialSegLib.importers.dodnet import OFFICIAL_NAMES as DODNET_NAMES
from PartialSegLib.importers.dodnet import mots_manifest
from PartialSegLib.importers.stunet import OFFICIAL_NAMES as STUNET_NAMES
from PartialSegLib.manifest import NetworkSpec
from PartialSegLib.model import build_network, save_model
from PartialSegLib.networks.stunet import FLARE23_STRIDES, STUNET_SIZES
from PartialSegLib.phantom import make_phantom
from PartialSegLib.volume import reorient

FLARE23_CLASSES = (
    *("liver", "right kidney", "spleen", "pancreas", "aorta", "inferior vena cava", "right adrenal gland"),
    *("left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum", "left kidney", "tumor"),
)
INTENSITIES = {"percentile_00_5": -969.0, "percentile_99_5": 277.0, "mean": 70.34545764431464}
DEVIATION = 141.39995182092852  # of FLARE23's plan, in HU
ENCODER_NAME = "STUNet-B"
SEVEN_TASKS = {"task_channels": [2] * 7}


@dataclass(frozen=True)
class Sizes:
    """How large the networks of a run are: STU-Net for nnU-Net, DoDNet, and those that take one patch."""

    stunet: Official
    dodnet: Official
    networks: dict[str, Official]


def _sizes(stunet: Official, others: dict[str, Official]) -> Sizes:
    """STU-Net gets a head for each of seven tasks where tasks are compared."""
    spec = NetworkSpec("STUNet", {**stunet.spec.arguments, **SEVEN_TASKS})
    return Sizes(stunet, others["DoDNet"], {**others, ENCODER_NAME: stunet._replace(spec=spec)})


FULL = _sizes(
    Official(NetworkSpec("STUNet", dict(STUNET_SIZES["base"])), (48, 128, 160), (2.5, 1.5, 1.5)),
    {name: benchmark_networks.OFFICIAL[name] for name in ("DoDNet", "TransDoDNet", "MultiTalent U-Net")},
)
TINY_WIDTHS = {"widths": [8, 8, 16, 16, 16], "groups": 8}
TINY_PLANES = {"planes": [4, 8, 8, 8], "depths": [1] * 4, "decoder_widths": [16, 16, 16, 8, 8], "width": 48}
QUICK = _sizes(
    Official(NetworkSpec("STUNet", {"base_width": 4, "depth": 1}), (16, 64, 64), (5.0, 4.0, 4.0)),
    {
        "DoDNet": Official(NetworkSpec("DoDNet", TINY_WIDTHS), (16, 48, 48), (5.0, 4.0, 4.0)),
        "TransDoDNet": Official(NetworkSpec("TransDoDNet", TINY_PLANES), (32, 64, 64), (5.0, 4.0, 4.0)),
        "MultiTalent U-Net": Official(
            NetworkSpec("UNet", {"widths": [4] * 6}), (32, 64, 64), (5.0, 4.0, 4.0)
        ),
    },
)


def write_stunet(folder: Path, official: Official, classes: Sequence[str], title: str) -> Path:
    """Write STU-Net with these classes and the background; returns the folder.

    It then holds `model`, as nnU-Net leaves it; `package`, ours, imported from that; and `weights.pt`, the
    same weights under the names of our class, which the peer's process builds.

    Args:
        folder: of its own.
        official: the network, and the grid it works on.
        classes: names of the labels 1, 2, and so on.
        title: name of the data set, as in Dataset009_Spleen.
    """
    if (folder / "package").exists():
        return folder
    network = build_network(
        NetworkSpec("STUNet", {**official.spec.arguments, "task_channels": [1 + len(classes)]})
    )
    network.load_state_dict(_rule_weights(network, STUNET_NAMES), assign=True)
    _balance_head(network.eval(), _phantom_patch(official))
    weights = {name: value.detach() for name, value in network.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "weights.pt")
    labels = {name: label for label, name in enumerate(("background", *classes))}
    write_model_folder(
        folder / "model",
        _plans(official, title),
        {official_name(name, STUNET_NAMES): value for name, value in weights.items()},
        labels,
    )
    import_checkpoint("stunet", folder / "model", folder / "package")
    return folder


def write_dodnet(folder: Path, official: Official) -> Path:
    """Write a package of DoDNet, without the clean-up of its tasks; returns its folder."""
    if not folder.exists():
        manifest = mots_manifest({})
        manifest = replace(
            manifest,
            network=official.spec,
            preprocessing=replace(manifest.preprocessing, orientation=AXES, spacing=official.spacing),
            inference=replace(manifest.inference, patch_size=official.patch_size),
            tasks=tuple(replace(task, postprocessing=()) for task in manifest.tasks),
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_model(folder, manifest, _rule_weights(build_network(official.spec), DODNET_NAMES), "CC0-1.0\n")
    return folder


def _rule_weights(network: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """Weights that depend on the official names alone."""
    return {
        name: torch.from_numpy(reference_weight(official_name(name, names), tuple(value.shape)))
        for name, value in network.state_dict().items()
    }


def _plans(official: Official, title: str) -> dict[str, Any]:
    """plans.json of nnU-Net 2.8 with its default resampling, and the intensities of FLARE23."""
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    strides = [list(stride) for stride in FLARE23_STRIDES]
    architecture = {
        "network_class_name": "STUNet",
        "arch_kwargs": {"strides": strides},
        "_kw_requires_import": [],
    }
    plans = plans_with(
        {
            "architecture": architecture,
            "patch_size": list(official.patch_size),
            "spacing": list(official.spacing),
            "data_identifier": "field",
            "preprocessor_name": "DefaultPreprocessor",
            "use_mask_for_norm": [False],
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": resampling,
            "batch_dice": True,
        }
    )
    del plans["configurations"]["3d_cascade_fullres"]
    intensities = {"0": {**INTENSITIES, "std": DEVIATION, "median": 70.0, "min": -1024.0, "max": 3071.0}}
    return {
        **plans,
        "dataset_name": title,
        "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner",
        "foreground_intensity_properties_per_channel": intensities,
    }


def _phantom_patch(official: Official) -> Tensor:
    """A patch (1, 1, D, H, W) from the middle of a phantom, as the network sees it."""
    volume = reorient(make_phantom(1, official.spacing, official.patch_size).volume, AXES)
    clipped = volume.array.clip(INTENSITIES["percentile_00_5"], INTENSITIES["percentile_99_5"])
    return torch.from_numpy((clipped - INTENSITIES["mean"]) / DEVIATION).float()[None, None]


@torch.inference_mode()
def _balance_head(network: Any, patch: Tensor) -> None:
    """Give every class logits of mean 0 and deviation 1 over a patch."""
    head = network.heads[-1]
    logits = head(network.forward_features(patch).decoder)[0].flatten(1)
    scale = logits.std(dim=1)
    head.weight.div_(scale[:, None, None, None, None])
    head.bias.copy_((head.bias - logits.mean(dim=1)) / scale)
