"""Pseudo-labels: what a model finds in cases that are not labelled for it becomes a new collection.

After Huang et al., "Exploiting Pseudo-Labeling and nnU-Netv2 Inference Acceleration for Abdominal Multi-Organ
and Pan-Cancer Segmentation" (FLARE23), sections 2.2 and 2.3: a large model trained on the cases labelled for
organs labels the organs of cases annotated for tumours; a second one, trained on those, labels the cases
left; a small one is trained on everything. Predictions are averaged over mirrored images. Each stage is one
run.

The original files are only read. Beside the new collection NAME.json lie the folder NAME-labels with a merged
label map for each labelled case, and NAME.pseudo_labels.json, which says of each structure of each case where
it comes from, and of each label value what of it was predicted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...errors import InputError
from ..collection import Case, Collection, read_collection, write_collection
from .plan import PlannedCase, PseudoLabelRequest, plan_cases
from .record import (
    CaseRecord,
    PseudoLabelRecord,
    StructureRecord,
    ValueRecord,
    read_record,
    record_path,
    write_record,
)
from .reliability import ReliabilityLimits, doubts


class PseudoLabelling:
    """The cases that get pseudo-labels, and the state of the run that makes the new collection.

    A case is finished once its label map is written and listed in the record. What limits leave out is
    decided at the end, from figures of the record, so that other limits cost no new predictions.

    Args:
        source: collection file with the original cases.
        output: collection file to make; what belongs to it lies beside it.
        request: what to add to which cases.
        overwrite: forget what an earlier run did and begin anew.

    Attributes:
        source: the original collection.
        earlier: for each case of the source the pseudo-labels that it came with, from an earlier stage.
        planned: the cases that get pseudo-labels.
        left: those of them that were still to be done when this was made.

    Raises:
        InputError: the collection or the request cannot be used, an original file would be replaced, or the
            output holds the work of another request.
    """

    def __init__(
        self, source: Path, output: Path, request: PseudoLabelRequest, overwrite: bool = False
    ) -> None:
        self.source = read_collection(source)
        self.output = output.expanduser().absolute()
        self.request = request
        self.planned = plan_cases(self.source, request)
        self._before = read_record(source.expanduser()) or PseudoLabelRecord({})
        self.earlier = {name: case.pseudo_labels for name, case in self._before.cases.items()}
        self._refuse_to_replace(source)
        self._record = self._start(overwrite)
        known = self.cases
        self.left = [planned for planned in self.planned if not self._is_done(planned, known)]

    @property
    def cases(self) -> dict[str, CaseRecord]:
        """What became of the planned cases so far, by name, in the order of the collection."""
        known = self._record.cases
        names = {planned.case.name: planned.fingerprint for planned in self.planned}
        return {
            name: known[name]
            for name, fingerprint in names.items()
            if name in known and known[name].fingerprint == fingerprint
        }

    def label_path(self, planned: PlannedCase) -> Path:
        """Where the merged label map of a case lies."""
        return self.output.parent / f"{self.output.stem}-labels" / f"{planned.case.name}{self.request.suffix}"

    def record(
        self, planned: PlannedCase, structures: Mapping[str, StructureRecord], error: str = ""
    ) -> None:
        """Write down what became of a case.

        Args:
            planned: the case.
            structures: what its label map holds.
            error: why it failed, in a sentence; empty when it did not.

        Raises:
            InputError: the record cannot be written.
        """
        before = self.earlier.get(planned.case.name, {})
        traced = {
            id: replace(before[id], voxels=item.voxels, volume_ml=item.volume_ml)
            if item.origin == "original" and id in before
            else item
            for id, item in structures.items()
        }
        new = CaseRecord(planned.fingerprint, traced, before, error)
        self._record = replace(self._record, cases={**self._record.cases, planned.case.name: new})
        write_record(self.output, self._record)

    def finish(self, limits: ReliabilityLimits) -> Collection:
        """Write the new collection and what the limits say of each case.

        Cases that failed or exceed a limit stay as they are in the source: in their own data set, with their
        original labels or without. So do the cases that no pseudo-labels were asked for.

        Args:
            limits: beyond which the pseudo-labels of a case are not used.

        Raises:
            InputError: a file cannot be written.
        """
        plain = {
            "disagreement": dict(limits.disagreement),
            "volume_ml": {structure: list(pair) for structure, pair in limits.volume_ml.items()},
        }
        cases = {**self._record.cases}
        for name, record in self.cases.items():
            new = {id: item for id, item in record.structures.items() if id not in record.earlier}
            cases[name] = replace(record, doubts=doubts(new, limits))
        values = {**self._before.values, **_meaning_of_values(self.planned)}
        self._record = replace(self._record, limits=plain, values=values, cases=cases)
        collection = self._merged_collection()
        write_record(self.output, self._record)
        write_collection(self.output, collection)
        return collection

    def _start(self, overwrite: bool) -> PseudoLabelRecord:
        """The record of an earlier run of the same request, or a new one."""
        settings = self.request.to_json()
        found = None if overwrite else read_record(self.output)
        if found is None:
            return PseudoLabelRecord(settings, {}, self._before.values, self._before.cases)
        if found.settings != settings:
            raise InputError(
                f"{self.output} holds pseudo-labels of another model, of other structures or settings, "
                f"see {record_path(self.output).name}; choose another output, or begin anew with --overwrite."
            )
        return found

    def _is_done(self, planned: PlannedCase, known: Mapping[str, CaseRecord]) -> bool:
        record = known.get(planned.case.name)
        return record is not None and not record.error and self.label_path(planned).exists()

    def _refuse_to_replace(self, source: Path) -> None:
        if self.output.suffix.lower() != ".json" or self.output.is_dir():
            raise InputError(f"{self.output} is no name for a collection; choose one that ends with .json.")
        cases = self.source.cases
        inputs = [self.source.path(path) for case in cases for path in (*case.images, case.label) if path]
        given = {path.resolve() for path in [source.expanduser(), record_path(source.expanduser()), *inputs]}
        outputs = [self.output, record_path(self.output), *map(self.label_path, self.planned)]
        for path in outputs:
            if path.resolve() in given:
                raise InputError(f"{path} is an original file and would be replaced; choose another output.")
        if self.output.exists():
            try:
                read_collection(self.output)
            except (InputError, OSError):
                sentence = "is something else than a collection and would be replaced; choose another output."
                raise InputError(f"{self.output} {sentence}") from None

    def _merged_collection(self) -> Collection:
        """The source with the label maps that are used, its paths as seen from the output."""
        names = {name for name, record in self.cases.items() if record.is_used}
        used = {planned.case.name: planned for planned in self.planned if planned.case.name in names}
        cases = tuple(self._merged_case(case, used.get(case.name)) for case in self.source.cases)
        known = self.source.data_sets | {
            planned.merging.data_set.name: planned.merging.data_set for planned in used.values()
        }
        needed = {case.data_set for case in cases}
        data_sets = {name: data_set for name, data_set in known.items() if name in needed}
        return Collection(self.output.stem, self.output.parent, data_sets, cases)

    def _merged_case(self, case: Case, planned: PlannedCase | None) -> Case:
        moved = case.with_paths(self._moved)
        if planned is None:
            return moved
        label = self.label_path(planned).relative_to(self.output.parent).as_posix()
        return replace(moved, data_set=planned.merging.data_set.name, label=label)

    def _moved(self, path: str) -> str:
        """A path of the source as seen from the output; whole where it was, or is on another drive."""
        target = self.source.path(path).absolute()
        try:
            relative = Path(os.path.relpath(target, self.output.parent)).as_posix()
        except ValueError:
            return str(target)
        return path if Path(path).is_absolute() else relative


def _meaning_of_values(planned: list[PlannedCase]) -> dict[str, dict[str, ValueRecord]]:
    """By data set and value: the original value, and the predicted structures that the voxel belongs to."""
    meaning = {}
    for merging in {plan.merging.data_set.name: plan.merging for plan in planned}.values():
        rows = dict(zip(merging.data_set.structures, merging.members, strict=True))
        meaning[merging.data_set.name] = {
            str(value): ValueRecord(
                state.original, tuple(structure for structure in merging.added if rows[structure][number])
            )
            for number, (value, state) in enumerate(zip(merging.values, merging.states, strict=True))
        }
    return meaning
