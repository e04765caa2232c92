"""Whole cases of a collection, with what their data set annotates as reference for a model."""

from __future__ import annotations

import numpy as np

from ...errors import InputError
from ...manifest import Manifest, Task
from ...masks.packed_mask import PackedMask
from ...segmentation import Segmentation
from ...volume import Volume, read_volume
from ..preparation.channels import check_channels, model_channels
from .case_check import NO_FOREGROUND, label_faults
from .case_images import case_image
from .collection import Case, Collection, tasks_of


def tasks_of_data_sets(collection: Collection, manifest: Manifest) -> dict[str, Task]:
    """The task of a model that each data set is labelled for, as in training, see `tasks_of`.

    Returns:
        By the names of the data sets; those without are left out.

    Raises:
        InputError: the model serves none of them.
    """
    tasks = [task.name for task in manifest.tasks]
    served = {
        name: manifest.tasks[number]
        for name, number in tasks_of(collection, tasks).items()
        if manifest.tasks[number].structures.keys() & collection.data_sets[name].structures.keys()
    }
    if not served:
        labelled = dict.fromkeys(data_set.task for data_set in collection.data_sets.values())
        raise InputError(
            f"The collection {collection.name} is labelled for {', '.join(labelled)}, model {manifest.name} "
            f"has {', '.join(tasks)}, none with structures of these; choose another model, or make the "
            "collection again with `--task` and `--label` as the model names them."
        )
    return served


def read_case(
    collection: Collection, case: Case, task: Task, manifest: Manifest
) -> tuple[Volume, Segmentation]:
    """The image of a labelled case, and masks of the structures of a task that its data set annotates.

    Args:
        collection: that the case is of.
        case: with a label map.
        task: of the model, see `tasks_of_data_sets`.
        manifest: of the model, for one CT.

    Returns:
        The image as the model reads it, and the reference on its grid, keyed by task and structure; voxels
        that the data set ignores are ignored.

    Raises:
        InputError: image or label map cannot be used, or do not lie on one grid.
    """
    data_set, channels = collection.data_sets[case.data_set], manifest.preprocessing.image_channels
    check_channels(data_set, channels)
    image = case_image(collection, case)
    volume = model_channels(image, image.read(), channels)[0]
    path = collection.path(case.label or "")
    label = read_volume(path, any_modality=True)
    for kind, found in label_faults(volume, label, data_set):
        if kind != NO_FOREGROUND:  # a patient without tumour is one
            raise InputError(f"{path}: {kind} ({found}); repair the case, or leave it out.")
    reference = Segmentation(volume.shape, volume.affine)
    z, y, x = volume.shape
    if data_set.ignore:
        reference.ignored = PackedMask(np.s_[0:z, 0:y, 0:x], np.isin(label.array, data_set.ignore))
    for structure in task.structures:
        if structure in data_set.structures:
            reference.add(task.name, structure, None, np.isin(label.array, data_set.structures[structure]))
    return volume, reference
