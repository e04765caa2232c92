"""One file through nnU-Net's `nnUNetPredictor`, in the peer's own environment, for `make bench-field`.

STU-Net is no part of nnU-Net: the network is our class, built here, because the predictor takes any module.
Of our code nothing else runs. Our class leaves out the coarser heads, and convolves before it up-samples;
both favour the peer a little.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import measuring

for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(variable, os.devnull)  # of training; nnU-Net warns where they are missing
sys.path.insert(0, str(measuring.ROOT))

import torch  # noqa: E402 - all of these read the environment
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO  # noqa: E402
from nnunetv2.inference import predict_from_raw_data  # noqa: E402
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: E402
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor  # noqa: E402
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from PartialSegLib.networks import STUNet  # noqa: E402

MIRROR_AXES = (0, 1, 2)


class PlainNetwork(nn.Module):
    """STU-Net with its one task: image (B, 1, D, H, W) in, logits (B, classes, D, H, W) out."""

    def __init__(self, arguments: dict[str, Any], record: dict[str, Any]) -> None:
        super().__init__()
        self.network = STUNet(**arguments)
        self._record = record

    def forward(self, x: Tensor) -> Tensor:
        self._record["passes"] = self._record.get("passes", 0) + 1
        return measuring.timed(self._record, "network", lambda: self.network(x, 0))


def predict(settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds and peak memory of one file to file prediction.

    Args:
        settings: `folder`, as `field_models.write_stunet` leaves it; `image` and `output`, files; `mirror`,
            whether to average over all flips; `threads`.
    """
    torch.set_num_threads(settings["threads"])
    record: dict[str, Any] = {}
    predictor = measuring.timed(record, "load", lambda: _predictor(settings, record))
    _time_stages(record)
    output = settings["output"].removesuffix(".nii.gz")
    measuring.timed(
        record,
        "total",
        lambda: predictor.predict_from_files_sequential([[settings["image"]]], [output], overwrite=True),
    )
    record["preprocess"] -= record["read"]
    record["export"] -= record["write"]
    record["outside the network"] = record["total"] - record["network"]
    record["peak memory MB"] = measuring.peak_memory_mb()
    return record


def _predictor(settings: dict[str, Any], record: dict[str, Any]) -> nnUNetPredictor:
    """As nnU-Net's command line makes it without a GPU, with our network in it."""
    folder = Path(settings["folder"])
    arguments = json.loads((folder / "package" / "model.json").read_text())["network"]["arguments"]
    network = PlainNetwork(arguments, record)
    network.network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    plans = PlansManager(json.loads((folder / "model" / "plans.json").read_text()))
    dataset = json.loads((folder / "model" / "dataset.json").read_text())
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=settings["mirror"],
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        network,
        plans,
        plans.get_configuration("3d_fullres"),
        [network.state_dict()],
        dataset,
        "nnUNetTrainer",
        MIRROR_AXES,
    )
    return predictor


def _time_stages(record: dict[str, Any]) -> None:
    """Add the seconds of nnU-Net's stages to a record; those of reading are in preprocess, too."""
    stages = {
        "read": (SimpleITKIO, "read_images"),
        "preprocess": (DefaultPreprocessor, "run_case"),
        "sliding window": (nnUNetPredictor, "predict_sliding_window_return_logits"),
        "export": (predict_from_raw_data, "export_prediction_from_logits"),
        "write": (SimpleITKIO, "write_seg"),
    }
    for stage, (owner, name) in stages.items():
        setattr(owner, name, _timed(getattr(owner, name), record, stage))


def _timed(function: Any, record: dict[str, Any], stage: str) -> Any:
    return lambda *positional, **named: measuring.timed(record, stage, lambda: function(*positional, **named))


if __name__ == "__main__":
    measuring.report(predict(json.loads(sys.argv[1])))
