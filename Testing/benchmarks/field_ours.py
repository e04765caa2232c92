"""One file through our session, as `partialseg segment` runs it, for `make bench-field`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import measuring
import torch
from field_gpu import GpuMemory
from measuring import timed
from torch import Tensor

from PartialSegLib import Cancelled, InferenceSession, load_model, read_volume, write_segmentation
from PartialSegLib.inference.region_selection import CoarsePass


def predict(settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds, peak memory and patches of one file to file prediction.

    Args:
        settings: `package` and `image`; `output`, a file; `options` of the session; `tasks`, their names or
            null for all; `region_from`, the name of a coarse model; `threads`; `warm_up`, how many times to
            predict before measuring.
    """
    torch.set_num_threads(settings["threads"])
    record: dict[str, Any] = {}
    session = timed(record, "load", lambda: open_session(settings))
    for _ in range(settings.get("warm_up", 0)):
        _run(session, settings, {})
    network: dict[str, float] = {}
    _time_network(session, network)
    with GpuMemory(session.device) as gpu:
        timed(record, "total", lambda: _run(session, settings, record))
    record |= session.timings | network | gpu.figures
    record["outside the network"] = record["total"] - record["network"]
    record["patches"] = session.patches_encoded
    record["patches planned"] = session.patches_planned
    record["precision"] = session.precision
    record["peak memory MB"] = measuring.peak_memory_mb()
    return record


def count_patches(settings: dict[str, Any]) -> dict[str, Any]:
    """Patches that region selection visits, and the seconds of choosing them; one patch is encoded."""
    torch.set_num_threads(settings["threads"])
    record: dict[str, Any] = {}
    session = open_session(settings)
    session.set_image(read_volume(settings["image"]))
    record["preprocess"] = session.timings["preprocess"]

    def stop(done: int, total: int) -> None:
        record["patches"] = total
        if done:
            raise Cancelled

    network: dict[str, float] = {}
    _time_network(session, network)
    with suppress(Cancelled):
        timed(network, "all", lambda: session.predict(settings["tasks"], stop))
    record["patches planned"] = session.patches_planned
    record["coarse pass"] = network["all"] - network["network"]
    return record


def open_session(settings: dict[str, Any]) -> InferenceSession:
    """The session that the settings of `predict` describe; features are not kept, as on the command line."""
    coarse = settings.get("region_from")
    region_from = None if coarse is None else CoarsePass(load_model(coarse))
    options = {"device": "cpu", "cache_bytes": 0, "region_from": region_from, **settings["options"]}
    return InferenceSession(load_model(settings["package"]), **options)


def _run(session: InferenceSession, settings: dict[str, Any], record: dict[str, Any]) -> None:
    volume = timed(record, "read", lambda: read_volume(settings["image"]))
    session.set_image(volume)
    del volume  # as `partialseg segment` does
    segmentation = session.predict(settings["tasks"])
    timed(record, "write", lambda: write_segmentation(settings["output"], segmentation))


def _time_network(session: InferenceSession, record: dict[str, float]) -> None:
    """Add the seconds of the network to a record: features and head, not the blending of patches."""
    runner: Any = session._runner
    encode, score = runner.encode, runner.score
    record["network"] = 0.0

    def scored(*given: Any) -> Iterator[Tensor]:
        scores = iter(score(*given))  # computed when they are asked for
        while (scores_of_task := measured(next, scores, None)) is not None:
            yield scores_of_task

    def measured(function: Any, *given: Any) -> Any:
        return timed(record, "network", lambda: _finished(function(*given), session))

    runner.encode = lambda *given: measured(encode, *given)
    runner.score = scored


def _finished(value: Any, session: InferenceSession) -> Any:
    """The value, once a GPU has computed it."""
    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)
    return value


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    measuring.report(count_patches(given) if given.get("count_only") else predict(given))
