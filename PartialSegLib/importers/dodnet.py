"""DoDNet's official checkpoints (MOTS_DynConv_*.pth) and the manifest of the benchmark they were trained on.

Zhang, Xie, Xia, Shen: DoDNet: Learning to segment multi-organ and tumors from multiple partially labeled
datasets, CVPR 2021. Figures are those of the official code, https://github.com/jianpengz/DoDNet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from ..manifest import Inference, Manifest, NetworkSpec, PostprocessingStep, Preprocessing, Task
from ..model import build_network
from ..packages.package_files import file_sha256
from ..task import Connectivity
from .checkpoint import (
    ImportedModel,
    named_weights,
    read_checkpoint,
    refuse_unknown_keys,
    renamed_weights,
    without_parallel_prefix,
)
from .clean_up import keep_largest, tumor_in_organ
from .converted_license import converted_license

SOURCE_URL = "https://github.com/jianpengz/DoDNet"

CITATION = (
    "Zhang J, Xie Y, Xia Y, Shen C. DoDNet: Learning to segment multi-organ and tumors from multiple "
    "partially labeled datasets. CVPR 2021, pp. 1195-1204."
)

LICENSE_TEXT = converted_license("DoDNet", SOURCE_URL, "GNU General Public License, version 3", CITATION)

MOTS_NETWORK = NetworkSpec("DoDNet", {"num_tasks": 7})

NEIGHBORS: Connectivity = 6

OFFICIAL_NAMES = {
    r"^stem\.": "conv1.",
    r"^encoder\.(\d)\.": r"layer\1.",
    r"^fusion\.": "fusionConv.",
    r"^pooling\.": "GAP.",
    r"^decoder\.0\.": "x8_resb.0.",
    r"^decoder\.1\.": "x4_resb.0.",
    r"^decoder\.2\.": "x2_resb.0.",
    r"^decoder\.3\.": "x1_resb.0.",
    r"^projection\.": "precls_conv.",
    r"\.unit([12])\.0\.": r".gn\1.",
    r"\.unit([12])\.2\.": r".conv\1.",
    r"\.shortcut\.": ".downsample.",
}


def import_dodnet(path: Path) -> ImportedModel:
    """Read an official DoDNet checkpoint: bare weights, or apex's model, optimizer and amp.

    Raises:
        InputError: not such a checkpoint; the message names the file and the key at fault.
    """
    contents = read_checkpoint(path)
    try:
        weights = without_parallel_prefix(_weights_of(contents))
        state_dict = renamed_weights(weights, build_network(MOTS_NETWORK), OFFICIAL_NAMES)
    except InputError as error:
        raise InputError(f"{path} is not an official DoDNet checkpoint: {error}") from None
    source = {"url": SOURCE_URL, "checkpoint": path.name, "sha256": file_sha256(path)}
    return ImportedModel(mots_manifest(source), state_dict, LICENSE_TEXT)


def _weights_of(contents: Any) -> dict[str, Any]:
    """The weights of either container; training's optimiser and loss scaler are known and left behind."""
    if isinstance(contents, dict) and isinstance(contents.get("model"), dict):
        refuse_unknown_keys(contents, "model", {"model", "optimizer", "amp"})
        contents = contents["model"]
    return named_weights(contents)


def mots_manifest(source: dict[str, str]) -> Manifest:
    """The official network on MOTS: seven tasks, preprocessing, sliding window and post-processing.

    Training mirrored every axis at random, so the three directions of the orientation carry no information.
    Slices, rows, columns is the order in which the official code reads the kidney cases; for the other tasks
    its scripts for re-spacing and reading leave the order open, so it must be checked on a known case.

    Args:
        source: where the checkpoint comes from.
    """
    return Manifest(
        name="dodnet-mots",
        version="1.0.0",
        title="DoDNet, seven abdominal tasks (MOTS)",
        license="as given by the authors of the checkpoint; the DoDNet repository is under GPL-3.0",
        citation=CITATION,
        source=source,
        network=MOTS_NETWORK,
        training={"data": "MOTS (seven partially labelled data sets), if it is the published checkpoint"},
        preprocessing=Preprocessing(
            orientation="IPL",
            spacing=(1.5, 0.8, 0.8),
            clip=(-325.0, 325.0),
            divide=325.0,
            resampling="cubic",
            grid="truncated",
        ),
        inference=Inference(patch_size=(64, 192, 192), overlap=0.5, mirror_axes=(0, 1, 2)),
        tasks=MOTS_TASKS,
    )


def _drop_specks(structure: str) -> PostprocessingStep:
    return PostprocessingStep("drop_small", structure, voxels=50, only_if_several=True)


MOTS_TASKS = (
    Task(
        "liver",
        {"liver": 0, "liver_tumor": 1},
        "Liver and tumour",
        (*tumor_in_organ("liver", "liver_tumor", 1, NEIGHBORS), _drop_specks("liver_tumor")),
    ),
    Task(
        "kidney",
        {"kidney": 0, "kidney_tumor": 1},
        "Kidneys and tumour",
        (*tumor_in_organ("kidney", "kidney_tumor", 2, NEIGHBORS), keep_largest("kidney_tumor", 1, NEIGHBORS)),
    ),
    Task(
        "hepatic vessel",
        {"hepatic_vessel": 0, "liver_tumor": 1},
        "Hepatic vessels and tumour",
        (_drop_specks("liver_tumor"),),
    ),
    Task(
        "pancreas",
        {"pancreas": 0, "pancreas_tumor": 1},
        "Pancreas and tumour",
        (*tumor_in_organ("pancreas", "pancreas_tumor", 1, NEIGHBORS), _drop_specks("pancreas_tumor")),
    ),
    Task("colon", {"colon_tumor": 1}, "Colon tumour", (keep_largest("colon_tumor", 1, NEIGHBORS),)),
    Task("lung", {"lung_tumor": 1}, "Lung tumour", (keep_largest("lung_tumor", 1, NEIGHBORS),)),
    Task("spleen", {"spleen": 0}, "Spleen", (keep_largest("spleen", 1, NEIGHBORS),)),
)
