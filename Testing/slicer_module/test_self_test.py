"""The self test of the module, as Reload and Test runs it: it passes, and it would notice a mistake."""

import sys
import unittest

import numpy as np
import pytest
import slicer
from scene_nodes import found, segmentationNode


def test_the_self_test_passes_and_leaves_no_worker(dialogs):
    import PartialSeg

    test = PartialSeg.PartialSegTest()
    test.runTest()
    assert test.logic.segmenter.client.pid is None


def test_without_torch_segmenting_is_left_out(dialogs, monkeypatch):
    import PartialSeg

    monkeypatch.setitem(sys.modules, "torch", None)
    result = unittest.TestResult()
    PartialSeg.PartialSegTest("test_PhantomIsSegmented").run(result)
    assert not result.errors
    ((_test, reason),) = result.skipped
    assert "PyTorch is not installed" in reason


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        (np.s_[20:30, 30:60, 70:74], "liver: 15. ml"),
        (np.s_[0:18, 0:23, 0:24], "liver: -9.. HU"),
        (np.s_[16:34, 36:59, 20:44], "liver lies on the wrong side"),
    ],
    ids=["small", "air", "left"],
)
def test_the_self_test_notices_a_wrong_liver(dialogs, box, sentence):
    from panel_steps import addPhantomNode
    from scene_nodes import PROVENANCE

    import PartialSeg

    from PartialSegSlicer.scene import mrml

    test, node = PartialSeg.PartialSegTest(), segmentationNode()
    test.volumeNode = addPhantomNode()
    if sentence.endswith("side"):
        slicer.util.arrayFromVolume(test.volumeNode)[box] = 100
    mrml.prepareSegmentation(node, test.volumeNode)
    mrml.addSegment(node, test.volumeNode, found("liver", "liver", *box), PROVENANCE)
    with pytest.raises(AssertionError, match=sentence):
        test._checkOrgan(node, "liver", "10200004", (800, 1700), side=1)
