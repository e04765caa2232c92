"""Training of Med-DANet from a configuration to a package; the steps are those of `loop`.

python -m PartialSegLib.training.med_danet CONFIG.json
torchrun --nproc-per-node 4 -m PartialSegLib.training.med_danet CONFIG.json --device cuda

Wang et al.: Med-DANet, ECCV 2022, sections 3.2, 3.3 and 4.1.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ...files.json_fields import to_json
from ...manifest import Manifest
from ...model import save_model
from ..collection import Collection
from ..data import ProgressBar, no_progress_bar
from ..loop.checkpoint_file import write_config
from ..loop.run_log import RunLog
from ..loop.steps import (
    CHECKPOINT_FILE,
    PACKAGE_FOLDER,
    check_batch,
    explained_exhaustion,
    run_folder,
    run_steps,
)
from ..loop.workers import Workers, joined_workers
from ..provenance import license_text, training_record
from ..run_report import write_report
from ..validation import Scores
from .collection_slices import (
    describe_validation,
    open_slices,
    open_validation_slices,
    prepare_slices,
    training_collection,
)
from .comparison import compare_with_candidates
from .config import SliceBankConfig, slice_bank_manifest
from .run import SliceBankRun
from .slices import SliceSource, load_batches, steps_per_epoch


def train_slice_bank(
    config: SliceBankConfig,
    source: SliceSource | None = None,
    device: str = "cpu",
    watched: SliceSource | None = None,
    progress_bar: ProgressBar = no_progress_bar,
) -> Path:
    """Train bank and decision network, write a model package, and return its folder.

    A checkpoint is written every `checkpoint_every` steps; starting again in the same output folder continues
    from it with the same slices in the same order: on CPUs in float32 to the bit.

    Args:
        config: of the run.
        source: the slices; None takes those that the configuration names.
        device: "auto", "cpu", "cuda" or "cuda:N"; with `torchrun` each process takes one GPU.
        watched: slices on which the run is validated, where `source` is given; None for no validation.
        progress_bar: shows how far the preparation of a collection is.

    Raises:
        InputError: the configuration does not make a valid package, the folder holds another run, loss or
            gradient are no longer finite, memory or disk are full, another process of the run has stopped,
            or the processes do not see the same files.
        DeviceError: there is no such device.
        KeyboardInterrupt: SIGINT or SIGTERM has stopped the run; it can be continued.
    """
    manifest = slice_bank_manifest(config)
    with joined_workers(device) as workers:
        work = (
            f"{config.batch_size // workers.size} slices of {config.input_size} x {config.input_size} pixels"
        )
        with explained_exhaustion(workers, work, "choose a smaller `batch_size`, or more processes"):
            return _train(config, manifest, source, watched, workers, progress_bar)


def _train(
    config: SliceBankConfig,
    manifest: Manifest,
    source: SliceSource | None,
    watched: SliceSource | None,
    workers: Workers,
    progress_bar: ProgressBar,
) -> Path:
    used = training_collection(config, manifest) if source is None else None
    if source is None:
        if workers.leads:
            prepare_slices(config, manifest, progress_bar)
        workers.wait()
        source = open_slices(config, manifest)
        watched = open_validation_slices(config, manifest) if workers.leads else None
    check_batch(min(config.batch_size, len(source)), "slices", workers)
    steps = steps_per_epoch(source, config.batch_size)
    run = SliceBankRun(config, manifest, len(source), steps, workers, used.digest() if used else None)
    with run_folder(config.output, workers.leads) as output:
        return _finish(run, manifest, source, watched, used, output)


def _finish(
    run: SliceBankRun,
    manifest: Manifest,
    source: SliceSource,
    watched: SliceSource | None,
    used: Collection | None,
    output: Path,
) -> Path:
    """All steps from a checkpoint or the first one on, and what is written after them."""
    config, workers = run.config, run.workers
    run.resume(output / CHECKPOINT_FILE)
    if workers.leads:
        write_config(output, to_json(config))
    feed = load_batches(source, config, run.step, run.iterations, workers)
    with RunLog(output, run.step, run.iterations, workers.leads, run.figures) as log:
        validation = partial(_validate, run, watched, manifest, log)
        run_steps(run, feed, log, output, config.checkpoint_every, config.validate_every, validation)
    if workers.leads:
        record = training_record(manifest.training, used, run.iterations)
        manifest = replace(manifest, training=record)
        weights = run.network.state_dict()
        save_model(output / PACKAGE_FOLDER, manifest, weights, license_text(manifest), torch.float16)
        stages = dict(zip(("bank", "decision network"), (p.iterations for p in run.phases), strict=True))
        watching = describe_validation(watched)
        write_report(output, config, manifest, watching, items="slices", stages=stages)
    workers.wait()
    return output / PACKAGE_FOLDER


def _validate(run: SliceBankRun, slices: SliceSource | None, manifest: Manifest, log: RunLog) -> None:
    """Dice of each candidate, and of the bank with its decision network, if there are slices to see it on."""
    if slices is None:
        return
    (task,) = manifest.tasks
    device = str(run.workers.device)
    rows = compare_with_candidates(run.network, slices, run.config, task.structures, device)
    scores: Scores = {
        (f"{task.name}, {name}", structure): dice
        for name, row in rows.items()
        for structure, dice in row.dice.items()
    }
    log.add_validation(run.step, scores, "slices")
