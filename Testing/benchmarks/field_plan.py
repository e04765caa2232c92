"""What `make bench-field` measures: one process for each figure, by section."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from field_cases import case_file
from field_figures import Figures, Measurement
from field_models import FLARE23_CLASSES, FULL, QUICK, Sizes, write_dodnet, write_stunet

SHORT_ENOUGH = 180.0  # seconds: a mirrored pass that should take longer is extrapolated
FLIPS = 8
THOROUGH = {"selection": "off", "mirror": False}
ROUNDED = {"engine": "openvino-int8"}


def region_keys(case: str, what: str = "one task") -> dict[str, str]:
    """The measurements of region selection on a CT: patches of the whole image's grid, or planned anew.

    Args:
        case: the CT.
        what: is segmented: "one task" of STU-Net, or of "DoDNet".
    """
    key = f"{case}: ours, {what}, region selection"
    return {key: "auto", f"{key}, fast": "fast"}


@dataclass(frozen=True)
class Plan:
    """The settings of a run, and the measurements that follow.

    Attributes:
        scratch: folder for images, models and results.
        cases: names of the CTs, see `field_cases`.
        mirrored: those on which nnU-Net runs mirrored for real.
        voxel_cases: phantoms of different lengths.
        bundled_case: the phantom for the bundled model's further task.
        gpu_case: the phantom for the GPU; None without one.
        quick: tiny networks.
        engine: of our sessions on a CPU.
        model: the bundled model.
        organ: the one task.
        threads: of every process.
        peer_python: of nnU-Net's environment.
    """

    scratch: Path
    cases: list[str]
    mirrored: list[str]
    voxel_cases: list[str]
    bundled_case: str
    gpu_case: str | None
    quick: bool
    engine: str
    model: str
    organ: str
    threads: int
    peer_python: str

    @property
    def sizes(self) -> Sizes:
        """How large the networks are."""
        return QUICK if self.quick else FULL

    @cached_property
    def stunet(self) -> Path:
        """STU-Net-B with FLARE23's classes, written on first use."""
        folder = self.scratch / "models" / "stunet"
        return write_stunet(folder, self.sizes.stunet, FLARE23_CLASSES, "Dataset022_Abdomen")

    @cached_property
    def stunet_of_one_task(self) -> Path:
        """STU-Net-B with the organ alone."""
        folder = self.scratch / "models" / "stunet-one-task"
        return write_stunet(folder, self.sizes.stunet, (self.organ,), f"Dataset009_{self.organ.title()}")

    @cached_property
    def dodnet(self) -> Path:
        """DoDNet's package."""
        return write_dodnet(self.scratch / "models" / "dodnet", self.sizes.dodnet)

    def output(self, key: str) -> Path:
        """Where the segmentation of a measurement is written."""
        folder = self.scratch / "results"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / (key.replace(": ", "-").replace(", ", "-").replace(" ", "-") + ".nii.gz")

    def nnunet(self) -> list[Measurement]:
        """nnU-Net with STU-Net-B, mirrored and not, and ours with default settings and with the same work."""
        found = []
        for case in self.cases:
            found.append(self._peer(f"{case}: nnU-Net", case, self.stunet))
            if case in self.mirrored:
                found.append(self._peer(f"{case}: nnU-Net, mirrored", case, self.stunet, mirror=True))
            package = self.stunet / "package"
            found.append(self._ours(f"{case}: ours, default", case, package))
            found.append(self._ours(f"{case}: ours, like for like", case, package, options=THOROUGH))
            found.append(self._ours(f"{case}: ours, 8 bits", case, package, options=ROUNDED))
        return found

    def region(self) -> list[Measurement]:
        """STU-Net-B for one task, where the bundled model says where to look."""
        found = []
        for case in self.cases:
            folder = self.stunet_of_one_task
            found.append(self._peer(f"{case}: nnU-Net, one task", case, folder))
            for key, selection in region_keys(case).items():
                chosen = {"options": {"selection": selection}, "region_from": self.model}
                found.append(self._ours(key, case, folder / "package", **chosen))
        return found

    def dodnet_loops(self) -> list[Measurement]:
        """DoDNet in MONAI's loop and in ours, on the first case; on the others the patches to visit."""
        case, *others = self.cases
        task = {"tasks": [self.organ]}
        found = [
            self._loop(f"{case}: MONAI, DoDNet", case, self.dodnet, **task),
            self._ours(f"{case}: ours, DoDNet", case, self.dodnet, options=THOROUGH, **task),
        ]
        found.append(self._ours(f"{case}: ours, DoDNet, seven tasks", case, self.dodnet, options=THOROUGH))
        found.append(self._ours(f"{case}: ours, DoDNet, 8 bits", case, self.dodnet, options=ROUNDED, **task))
        key = f"{case}: ours, DoDNet, 8 bits, seven tasks"
        found.append(self._ours(key, case, self.dodnet, options=ROUNDED))
        region = {"region_from": self.model, **task}
        for name, selection in region_keys(case, "DoDNet").items():
            options = {"selection": selection}
            found.append(self._ours(name, case, self.dodnet, options=options, **region))
        mirrored = {**THOROUGH, "mirror": True}
        key = f"{case}: ours, DoDNet, mirrored"
        short = is_short(f"{case}: ours, DoDNet")
        found.append(self._ours(key, case, self.dodnet, options=mirrored, wanted=short, **task))
        for other in others:
            key = f"{other}: ours, DoDNet, patches to visit"
            found.append(self._ours(key, other, self.dodnet, count_only=True, **region))
        return found

    def bundled(self) -> list[Measurement]:
        """The bundled model, whose weights are trained, with all its tasks in MONAI's loop and in ours."""
        found = []
        for case in self.cases:
            found.append(self._loop(f"{case}: MONAI, bundled model", case, self.model))
            found.append(self._ours(f"{case}: ours, bundled model", case, self.model, options=THOROUGH))
        return found

    def further(self) -> list[Measurement]:
        """A further task of each network on a patch, and of the bundled model on a CT."""
        found = [self._network("further", name) for name in self.sizes.networks]
        image = str(self._image(self.bundled_case))
        return [*found, self._network("further", self.model, image=image)]

    def rate(self) -> list[Measurement]:
        """Encoding against its convolutions alone."""
        names = (*self.sizes.networks, self.model)
        return [self._network("rate", name, repetitions=7 if name == self.model else 3) for name in names]

    def voxels(self) -> list[Measurement]:
        """What a visited voxel costs in CTs of different lengths."""
        found = []
        for case in self.voxel_cases:
            given = {"what": "voxels", "network": self.model, "image": str(self._image(case))}
            found.append(
                self._own(f"cost of a voxel: {case}", "field_networks.py", self._with_options(given))
            )
        return found

    def gpu(self) -> list[Measurement]:
        """STU-Net-B and DoDNet on a GPU, after one run to warm up."""
        case = self.gpu_case
        if case is None:
            return []
        on_gpu: dict[str, Any] = {"options": {"device": "cuda", "engine": "torch"}, "warm_up": 1}
        return [
            self._ours(f"{case}: ours, STU-Net-B, GPU", case, self.stunet / "package", **on_gpu),
            self._ours(f"{case}: ours, DoDNet, seven tasks, GPU", case, self.dodnet, **on_gpu),
        ]

    def _image(self, case: str) -> Path:
        return case_file(case, self.scratch / "images")

    def _with_options(self, given: dict[str, Any]) -> dict[str, Any]:
        return {**given, "quick": self.quick, "options": {"engine": self.engine}}

    def _own(
        self, key: str, script: str, settings: dict[str, Any], wanted: Callable[[Figures], bool] | None = None
    ) -> Measurement:
        settings = {**settings, "threads": self.threads}
        return Measurement(key, sys.executable, script, settings, *([wanted] if wanted else []))

    def _ours(
        self,
        key: str,
        case: str,
        package: Path | str,
        options: dict[str, Any] | None = None,
        wanted: Callable[[Figures], bool] | None = None,
        **settings: Any,
    ) -> Measurement:
        places = {"package": str(package), "image": str(self._image(case)), "output": str(self.output(key))}
        chosen = {"tasks": None, "options": {"engine": self.engine, **(options or {})}}
        return self._own(key, "field_ours.py", {**places, **chosen, **settings}, wanted)

    def _loop(self, key: str, case: str, package: Path | str, tasks: list[str] | None = None) -> Measurement:
        places = {"package": str(package), "image": str(self._image(case)), "output": str(self.output(key))}
        return self._own(key, "field_loops.py", {**places, "tasks": tasks})

    def _network(self, what: str, name: str, **settings: Any) -> Measurement:
        given = self._with_options({"what": what, "network": name, **settings})
        return self._own(f"{what}: {name}", "field_networks.py", given)

    def _peer(self, key: str, case: str, folder: Path, mirror: bool = False) -> Measurement:
        settings = {"folder": str(folder), "image": str(self._image(case)), "output": str(self.output(key))}
        settings |= {"mirror": mirror, "threads": self.threads}
        return Measurement(key, self.peer_python, "field_nnunet.py", settings)


def is_short(key: str) -> Callable[[Figures], bool]:
    """Whether a measurement took so little that all flips of it can be measured, too."""

    def wanted(figures: Figures) -> bool:
        seconds = figures.median(key, "total")
        return seconds is not None and FLIPS * seconds < SHORT_ENOUGH

    return wanted


SECTIONS: dict[str, Callable[[Plan], list[Measurement]]] = {
    "further": Plan.further,
    "rate": Plan.rate,
    "voxels": Plan.voxels,
    "nnunet": Plan.nnunet,
    "region": Plan.region,
    "dodnet": Plan.dodnet_loops,
    "bundled": Plan.bundled,
    "gpu": Plan.gpu,
}
"""Sections of the table, in the order in which they are measured."""
