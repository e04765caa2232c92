"""What a prediction visits: the order of patches, and what is said of it."""

import numpy as np

from PartialSegLib.patches.sliding_window import Patch
from PartialSegLib.patches.visit_plan import CoarseShare, TaskView, describe_visits, visits

FIRST, SECOND, THIRD = (Patch((0, y, x), (4, 4, 4)) for y, x in ((0, 0), (0, 4), (4, 0)))
SLICES = np.ones(4, bool)


def test_patches_are_visited_in_one_order_whichever_task_wants_them():
    views = {0: TaskView([THIRD], None, SLICES), 1: TaskView([FIRST, SECOND, THIRD], None, SLICES)}
    assert visits(views) == [(FIRST, [1]), (SECOND, [1]), (THIRD, [0, 1])]


def test_a_patch_that_one_task_visits_is_not_left_to_the_coarse_model_for_another():
    nothing = np.zeros((4, 8, 8), bool)
    views = {
        "liver": TaskView([FIRST], None, SLICES),
        "spleen": TaskView([], None, SLICES, coarse=CoarseShare(nothing, {}, frozenset([FIRST, SECOND]))),
    }
    assert describe_visits(views, 4)["patches"] == {"visited": 1, "coarse": 1, "of": 4, "skipped": 0.5}
