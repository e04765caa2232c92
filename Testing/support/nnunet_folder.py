"""Small model folders of nnU-Net version 2 and of STU-Net, as their training leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
WIDTHS = [8, 12, 16, 16]
LABELS = {"background": 0, "Liver": 1, "tumour": 2}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "nnunet_v2_plain": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {"n_conv_per_stage": [2, 2, 3, 2], "n_conv_per_stage_decoder": [1, 2, 3]},
    },
    "nnunet_v2_resenc": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": {"n_blocks_per_stage": [1, 2, 3, 2], "n_conv_per_stage_decoder": [1, 2, 1]},
    },
}
COMMON_ARGUMENTS = {
    "n_stages": 4,
    "features_per_stage": WIDTHS,
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": KERNELS,
    "strides": STRIDES,
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}


def plans_of(name: str, **settings: Any) -> dict[str, Any]:
    """plans.json of the small network `name` of `parity_nnunet`; settings change its configuration."""
    architecture = {
        **ARCHITECTURES[name],
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    architecture["arch_kwargs"] = {**COMMON_ARGUMENTS, **architecture["arch_kwargs"]}
    return plans_with({"architecture": architecture, **settings})


def plans_with(settings: dict[str, Any]) -> dict[str, Any]:
    """plans.json with these settings of 3d_fullres."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "patch_size": [16, 32, 32],
        "spacing": [3.0, 2.0, 2.0],
        "normalization_schemes": ["CTNormalization"],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "batch_size": 2,
    }
    return {
        "dataset_name": "Dataset003_Liver",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "2d": {"patch_size": [64, 64]},
            "3d_base": configuration,
            "3d_fullres": {"inherits_from": "3d_base", **settings},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "foreground_intensity_properties_per_channel": {
            "0": {
                "percentile_00_5": -17.0,
                "percentile_99_5": 201.0,
                "mean": 99.4,
                "std": 39.4,
                "median": 101.0,
            }
        },
    }


def write_model_folder(
    folder: Path,
    plans: dict[str, Any],
    weights: dict[str, Tensor],
    labels: dict[str, Any] = LABELS,
    fold: str = "fold_0",
    **changes: Any,
) -> Path:
    """Write plans.json, dataset.json and checkpoint_final.pth; returns the checkpoint."""
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / fold).mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    checkpoint = {
        "network_weights": weights,
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5), 0.25], "epoch_start_timestamps": [np.float32(1)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": dataset,
            "unpack_dataset": True,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **changes,
    }
    torch.save(checkpoint, folder / fold / "checkpoint_final.pth")
    return folder / fold / "checkpoint_final.pth"
