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

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ...errors import InputError
from ...files.file_names import expanded
from ...files.output_files import explained_writing_errors
from ..collection import Case, Collection, read_collection, write_collection
from ..loop.run_lock import held
from .plan import PlannedCase, PseudoLabelRequest, plan_cases
from .record import (
    CaseRecord,
    PseudoLabelRecord,
    StructureRecord,
    ValueRecord,
    lock_path,
    read_record,
    record_path,
    write_record,
)
from .reliability import ReliabilityLimits, doubts

logger = logging.getLogger(__name__)


class PseudoLabelling:
    """The cases that get pseudo-labels, and the state of the run that makes the new collection.

    A case is finished once its label map is written and listed in the record. What limits leave out is
    decided at the end, from figures of the record, so that other limits cost no new predictions. Cases that
    earlier runs of the same request made from other data sets stay in the collection, under the new limits.

    Args:
        source: collection file with the original cases.
        output: collection file to make; what belongs to it lies beside it.
        request: what to add to which cases.
        overwrite: forget what an earlier run did and begin anew.

    Attributes:
        source: the original collection.
        earlier: for each case of the source the pseudo-labels that it came with, from an earlier stage.
        planned: the cases that get pseudo-labels.
        left: those of them that were still to be done when this was made, or the output was last held.

    Raises:
        InputError: the collection or the request cannot be used, an original file or something else than a
            collection would be replaced, or the output holds the work of another request.
    """

    def __init__(
        self, source: Path, output: Path, request: PseudoLabelRequest, overwrite: bool = False
    ) -> None:
        self.source = read_collection(source)
        self.output = expanded(output).absolute()
        self.request = request
        self.planned = plan_cases(self.source, request)
        self._before = read_record(expanded(source)) or PseudoLabelRecord({})
        self.earlier = {name: case.pseudo_labels for name, case in self._before.cases.items()}
        self._refuse_to_replace(source)
        self._overwrite = overwrite
        self._record = self._start(overwrite)
        self.left = self._undone()

    @property
    def cases(self) -> dict[str, CaseRecord]:
        """What became of the planned cases so far, by name, in the order of the collection."""
        return self._made(self.planned)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs away from the output until the block ends, and see what they have left to do.

        Raises:
            InputError: another run is at work, something else than its work would be replaced, or the place
                cannot be written to.
        """
        with explained_writing_errors(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
        refusal = f"Another run is at work on {self.output}; wait for its end, or choose another output."
        with held(lock_path(self.output), refusal):
            self._record = self._start(self._overwrite)
            self.left = self._undone()
            self._announce()
            yield

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
        others = self._others()
        for name, record in self._made([*self.planned, *others]).items():
            new = {id: item for id, item in record.structures.items() if id not in record.earlier}
            cases[name] = replace(record, doubts=doubts(new, limits))
        values = {**self._before.values, **_meaning_of_values([*self.planned, *others])}
        self._record = replace(self._record, limits=plain, values=values, cases=cases)
        collection = self._merged_collection([*self.planned, *others])
        write_record(self.output, self._record)
        write_collection(self.output, collection)
        return collection

    def _undone(self) -> list[PlannedCase]:
        known = self.cases
        return [planned for planned in self.planned if not self._is_done(planned, known)]

    def _announce(self) -> None:
        """Write down which label maps are going to be made: one in no record is somebody else's."""
        announced, own = {}, self._own()
        for planned in self.left:
            name, path = planned.case.name, self.label_path(planned)
            if not self._overwrite and name not in own and path.exists():
                raise InputError(
                    f"{path} is in no record of pseudo-labels and would be replaced; move it away, choose "
                    "another output, or begin anew with --overwrite."
                )
            before = self.earlier.get(name, {})
            announced[name] = CaseRecord(
                planned.fingerprint, {}, before, "its run was stopped before it was labelled"
            )
        if announced:
            self._record = replace(self._record, cases={**self._record.cases, **announced})
            write_record(self.output, self._record)

    def _own(self) -> dict[str, CaseRecord]:
        """The cases in the record that are of this output, not of an earlier stage."""
        before = self._before.cases
        return {name: case for name, case in self._record.cases.items() if before.get(name) != case}

    def _made(self, plans: list[PlannedCase]) -> dict[str, CaseRecord]:
        """The records of those cases that were made as planned."""
        known = self._record.cases
        return {
            plan.case.name: known[plan.case.name]
            for plan in plans
            if plan.case.name in known and plan.is_made_as(known[plan.case.name].fingerprint)
        }

    def _others(self) -> list[PlannedCase]:
        """Cases that earlier runs labelled for this output and this one was not asked for."""
        asked = {planned.case.name for planned in self.planned}
        used = {name for name, record in self._own().items() if not record.error} - asked
        found = []
        for data_set in {case.data_set: None for case in self.source.cases if case.name in used}:
            everything = replace(self.request, data_sets=(data_set,), unlabelled_only=False)
            with suppress(InputError):  # its rules have changed
                found += [plan for plan in plan_cases(self.source, everything) if plan.case.name in used]
        kept = [plan for plan in found if self._is_done(plan, self._made(found))]
        if lost := sorted(used - {plan.case.name for plan in kept}):
            logger.warning(
                "Pseudo-labels of %d cases, such as %s, are left out of %s: their files, rules or task are "
                "no longer those of the earlier run; ask for their data sets too.",
                len(lost), lost[0], self.output,
            )  # fmt: skip
        return kept

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
        given = {path.resolve() for path in [expanded(source), record_path(expanded(source)), *inputs]}
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

    def _merged_collection(self, plans: list[PlannedCase]) -> Collection:
        """The source with the label maps that are used, its paths as seen from the output."""
        names = {name for name, record in self._made(plans).items() if record.is_used}
        used = {planned.case.name: planned for planned in plans if planned.case.name in names}
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
