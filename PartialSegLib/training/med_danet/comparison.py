"""Whether the choices are worth it: the model bank against each of its candidates alone.

Wang et al.: Med-DANet, ECCV 2022, Table 3 and Figures 5 and 6. Command line, for a finished training:
`python -m PartialSegLib.training.med_danet.comparison CONFIG.json --phantoms 16`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import DeviceError, InputError
from ...files.json_fields import to_json
from ...model import load_model
from ...networks import MedDANet
from ...pytorch.devices import choose_device
from .config import SliceBankConfig, read_slice_bank_config
from .slices import PhantomSlices, Slice, SliceSource, crop

HELD_OUT_SEED = 10_000_000_019  # of patients that no training has seen
BATCH_SIZE = 16


@dataclass(frozen=True)
class Row:
    """What one candidate, or the bank with its decision network, reaches and costs.

    Attributes:
        dice: of each structure that is there, over the pixels of all slices ("Dice global" in Table 7).
        multiply_adds: for a slice on average, in thousand millions, the paper's "FLOPs (G)".
        ratios: how often each option was chosen; only for the bank.
    """

    dice: dict[str, float]
    multiply_adds: float
    ratios: dict[str, float] | None = None


@torch.inference_mode()
def compare_with_candidates(
    network: MedDANet,
    source: SliceSource,
    config: SliceBankConfig,
    structures: Mapping[str, int],
    device: str = "cpu",
) -> dict[str, Row]:
    """Segment slices with each candidate alone, and as the decision network chooses.

    Args:
        network: of a finished training, with one task.
        source: slices with labels, cut in their middle.
        config: of the training.
        structures: of the task, with their channels.
        device: where to compute.

    Returns:
        By the names of the candidates, and "bank".
    """
    bank = network.to(device).eval().bank
    names = [*bank.options[1:], "bank"]
    agreement = torch.zeros(len(names), 3, bank.num_classes, dtype=torch.int64)
    chosen: Counter[int] = Counter()
    for image, labels in _batches(source, config, device):
        skipped = torch.zeros_like(labels)
        predictions = torch.stack([skipped, *(part(image).argmax(dim=1) for part in bank.networks)])
        choices = bank.choose(image)
        chosen.update(choices.tolist())
        predictions = torch.cat([predictions[1:], predictions[choices, range(len(choices))][None]])
        agreement += torch.stack([_agreement(found, labels, bank.num_classes) for found in predictions])
    decision, *costs = network.multiply_adds
    mean = sum(network.multiply_adds[choice] * count for choice, count in chosen.items()) / len(source)
    costs = [*(cost - decision for cost in costs), mean]
    ratios = {option: chosen[number] / len(source) for number, option in enumerate(bank.options)}
    return {
        name: Row(_dice(counts, structures), round(cost, 6), ratios if name == "bank" else None)
        for name, counts, cost in zip(names, agreement, costs, strict=True)
    }


def _batches(source: SliceSource, config: SliceBankConfig, device: str) -> Iterator[Slice]:
    """All slices in their order."""
    for start in range(0, len(source), BATCH_SIZE):
        numbers = range(start, min(start + BATCH_SIZE, len(source)))
        slices = [crop(source[number], config.input_size, config.air) for number in numbers]
        image, labels = (torch.stack(parts).to(device) for parts in zip(*slices, strict=True))
        yield Slice(image, labels)


def _agreement(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(3, classes): pixels of each class that both have, in the prediction and in the labels."""
    parts = labels[prediction == labels], prediction.flatten(), labels.flatten()
    return torch.stack([part.bincount(minlength=num_classes) for part in parts]).cpu()


def _dice(counts: Tensor, structures: Mapping[str, int]) -> dict[str, float]:
    """Dice of each structure that is there."""
    both, predicted, labelled = counts.tolist()
    return {
        structure: round(2 * both[channel] / (predicted[channel] + labelled[channel]), 4)
        for structure, channel in structures.items()
        if labelled[channel]
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows as JSON; 0 when done, 2 after a user's mistake, 3 without the device."""
    parser = argparse.ArgumentParser("python -m PartialSegLib.training.med_danet.comparison")
    parser.add_argument("config", help="JSON file or recipe of a finished training, such as med-danet")
    parser.add_argument("--phantoms", type=int, default=16, help="synthetic patients that it has not seen")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps")
    options = parser.parse_args(arguments)
    try:
        config = read_slice_bank_config(options.config)
        model = load_model(Path(config.output) / "package")
        assert isinstance(model.network, MedDANet)
        task = model.manifest.tasks[0]
        phantoms = dataclasses.replace(config.phantoms, count=options.phantoms)
        source = PhantomSlices(phantoms, config.preprocessing, task, HELD_OUT_SEED)
        device = str(choose_device(options.device))
        rows = compare_with_candidates(model.network, source, config, task.structures, device)
    except (InputError, DeviceError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, InputError) else 3
    sys.stdout.write(json.dumps({name: to_json(row) for name, row in rows.items()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
