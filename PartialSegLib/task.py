"""Task: one annotation protocol of a model, and the declared steps that clean up its masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .files.json_fields import require
from .sentences import suggestion

NEEDED_FIELD = {
    "include": "other",
    "mask_by": "other",
    "keep_largest": "count",
    "drop_small": "voxels",
    "drop_uncertain": "score",
    "keep_largest_of_union": "others",
}

Connectivity = Literal[6, 18, 26]


@dataclass(frozen=True)
class PostprocessingStep:
    """One step of the clean-up of a task's masks; steps run in the order of the manifest.

    All steps but the last kind below work on the network's grid. "keep_largest_of_union" works on the grid of
    the image, on the finished masks, and so comes after all others.

    Attributes:
        step: "include" adds `other` to `structure`; "mask_by" keeps what lies inside `other`; "keep_largest"
            keeps the `count` largest components; "drop_small" removes those of at most `voxels` voxels;
            "drop_uncertain" those whose highest or mean score (`measure`) is at most `score`;
            "keep_largest_of_union" keeps, of `structure` and `others` taken as one mask, the largest
            component, or all of those that are equally large. What it removes becomes background, so it is
            removed from every structure of the task (nnU-Net version 2's step).
        structure: the mask that changes.
        other: the mask it is combined with.
        others: the masks that are taken as one with it; may be none.
        count: number of components kept.
        voxels: size of the largest component that is dropped, in voxels of the network's grid.
        score: that a component has to exceed: a probability for sigmoid, above the 0.5 that makes a voxel
            part of the mask; for softmax the lead over the best other channel.
        measure: where it has to: "highest", in one voxel; "mean", on average over its voxels.
        only_if_several: drop only while there is more than one component.
        connectivity: neighbours of a voxel: 6 (faces), 18 (edges) or 26 (corners).
    """

    step: Literal[
        "include", "keep_largest", "mask_by", "drop_small", "drop_uncertain", "keep_largest_of_union"
    ]
    structure: str
    other: str | None = None
    others: tuple[str, ...] | None = None
    count: int | None = None
    voxels: int | None = None
    score: float | None = None
    measure: Literal["highest", "mean"] = "highest"
    only_if_several: bool = False
    connectivity: Connectivity = 6

    def __post_init__(self) -> None:
        """Refuse a step without the number or structure it needs, or with one it does not use."""
        needed = NEEDED_FIELD[self.step]
        for name in ("other", "others", "count", "voxels", "score"):
            given = getattr(self, name) is not None
            require(given or name != needed, f"{name}: missing; the step {self.step} needs it")
            require(name == needed or not given, f"{name}: the step {self.step} does not use it; remove it")
        require(
            self.count is None or self.count >= 1, f"count: expected 1 or more components, got {self.count}"
        )
        require(
            self.voxels is None or self.voxels >= 1, f"voxels: expected 1 voxel or more, got {self.voxels}"
        )
        require(self.score is None or self.score > 0, f"score: expected more than 0, got {self.score}")
        require(
            self.measure == "highest" or self.score is not None,
            f"measure: the step {self.step} does not use it; remove it",
        )
        require(len(set(self.union)) == len(self.union), "others: expected each structure once")

    @property
    def union(self) -> tuple[str, ...]:
        """`structure` and `others`."""
        return self.structure, *(self.others or ())

    @property
    def is_on_image_grid(self) -> bool:
        """Whether it works on finished masks, on the grid of the image."""
        return self.step == "keep_largest_of_union"


@dataclass(frozen=True)
class Task:
    """One annotation protocol of the model: its structures, each with its output channel of the head."""

    name: str
    structures: dict[str, int]
    title: str = ""
    postprocessing: tuple[PostprocessingStep, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a task without name or structures, names that no file can hold, and shared channels."""
        require(bool(self.name.strip()), "name: expected the name of the task, got an empty text")
        _check_name("name", self.name)
        require(bool(self.structures), "structures: expected at least one structure, got none")
        for structure, channel in self.structures.items():
            _check_name("structures", structure)
            require(
                channel >= 0, f"structures.{structure}: expected an output channel from 0 on, got {channel}"
            )
        require(
            len(set(self.structures.values())) == len(self.structures),
            "structures: two structures share an output channel",
        )
        late = [step.is_on_image_grid for step in self.postprocessing]
        require(
            late == sorted(late),
            "postprocessing: a step on the network's grid follows one on the image's grid "
            "(keep_largest_of_union); put those last",
        )

    @property
    def network_steps(self) -> tuple[PostprocessingStep, ...]:
        """The clean-up on the network's grid."""
        return tuple(step for step in self.postprocessing if not step.is_on_image_grid)

    @property
    def image_steps(self) -> tuple[PostprocessingStep, ...]:
        """The clean-up on the grid of the image, which comes after it."""
        return tuple(step for step in self.postprocessing if step.is_on_image_grid)

    def check_structures(self, known: Sequence[str]) -> None:
        """Refuse structures that are not known, and steps on structures of other tasks.

        Raises:
            InputError: it starts with the place in the task, as in "structures.livre: unknown structure; …".
        """
        for structure in self.structures:
            advice = f"{suggestion(structure, list(known))}, or list it under uncoded"
            require(structure in known, f"structures.{structure}: unknown structure; {advice}")
        for number, step in enumerate(self.postprocessing):
            named = [("structure", step.structure), ("other", step.other)]
            for name, used in [*named, *(("others", other) for other in step.others or ())]:
                require(
                    used is None or used in self.structures,
                    f"postprocessing[{number}].{name}: {used} is no structure of this task; "
                    f"{suggestion(used or '', self.structures)}",
                )


def _check_name(place: str, name: str) -> None:
    """Refuse what ends a name in the tags of a .seg.nrrd file, or a line, or begins a formula in a table."""
    require(
        not re.search(r"[|\x00-\x1f\x7f-\x9f\u2028\u2029]", name),
        f"{place}: {name!r} holds '|' or a control character, which files of segments cannot; rename it",
    )
    require(
        not name.startswith(("=", "+", "-", "@")),
        f"{place}: {name!r} begins like a formula, which spreadsheets would compute; rename it",
    )
