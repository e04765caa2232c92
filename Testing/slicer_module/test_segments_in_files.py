"""Segments through files: .seg.nrrd and .mrb, written by Slicer, read by Slicer, slicerio and the library."""

import nrrd
import numpy as np
import pytest
import slicer
import slicer_scene
import slicerio
from scene_nodes import (
    PROVENANCE,
    ctNode,
    expectedPoints,
    found,
    obliqueAffine,
    segmentationNode,
    segmentIds,
    segmentPoints,
)

from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentation_files.formats import read_segmentation, write_segmentation

from PartialSegSlicer.scene import mrml
from PartialSegSlicer.scene.provenance import provenanceOf, tagOf

SEGMENTS = [
    found("liver", "liver", *np.s_[2:5, 3:9, 1:12]),
    found("liver", "liver_tumor", *np.s_[3:6, 4:6, 5:14]),
    found("hepatic vessel", "liver_tumor", *np.s_[0:2, 0:3, 0:4]),
]
IDS = [
    "PartialSeg_liver_liver",
    "PartialSeg_liver_liver_tumor",
    "PartialSeg_hepatic_vessel_liver_tumor",
]
NOW = {**PROVENANCE, "time": "2026-11-21T05:00:00+00:00"}


def copied(segment):
    return found(segment.task, segment.structure, *segment.box, mask=segment.mask.copy())


@pytest.fixture
def node(scene):
    node = segmentationNode()
    mrml.addSegments(node, ctNode(), map(copied, SEGMENTS), NOW)
    return node


@pytest.fixture
def path(node, tmp_path):
    path = tmp_path / "result.seg.nrrd"
    assert slicer.util.saveNode(node, str(path))
    return path


def libraryFile(path) -> Segmentation:
    """The same segments as the command line writes them."""
    segmentation = Segmentation((10, 12, 14), obliqueAffine(), NOW)
    for segment in SEGMENTS:
        segmentation.add(segment.task, segment.structure, segment.box, segment.mask)
    write_segmentation(path, segmentation)
    return segmentation


def assertSameSegments(back, original):
    assert segmentIds(back) == IDS
    for id, segment in zip(IDS, SEGMENTS, strict=True):
        read, written = (each.GetSegmentation().GetSegment(id) for each in (back, original))
        assert read.GetName() == written.GetName()
        assert read.GetColor() == pytest.approx(written.GetColor(), abs=1e-5)
        for tag in ("TerminologyEntry", "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"):
            assert tagOf(read, tag) == tagOf(written, tag) != ""
        assert provenanceOf(read) == NOW
        points = segmentPoints(back, id)
        np.testing.assert_allclose(points, expectedPoints(obliqueAffine(), segment), atol=1e-4)


def test_slicer_reads_back_what_it_wrote(node, path):
    assertSameSegments(slicer.util.loadSegmentation(str(path)), node)


def test_the_library_reads_what_slicer_wrote(path):
    segmentation = read_segmentation(path)
    assert segmentation.keys() == [(segment.task, segment.structure) for segment in SEGMENTS]
    assert segmentation.provenance == NOW
    for segment in SEGMENTS:
        box, mask = segmentation.cropped((segment.task, segment.structure))
        back = found(segment.task, segment.structure, *box, mask=mask)
        np.testing.assert_allclose(
            expectedPoints(segmentation.affine, back), expectedPoints(obliqueAffine(), segment), atol=1e-4
        )


def test_slicerio_reads_what_slicer_wrote(path):
    segments = slicerio.read_segmentation(str(path))["segments"]
    assert [segment["id"] for segment in segments] == IDS
    assert [segment["name"] for segment in segments] == [
        "liver",
        "liver tumor (liver)",
        "liver tumor (hepatic vessel)",
    ]
    assert segments[1]["terminology"]["category"] == ["SCT", "49755003", "Morphologically Altered Structure"]
    assert segments[1]["terminology"]["type"] == ["SCT", "4147007", "Mass"]
    assert segments[1]["terminology"]["anatomicRegion"] == ["SCT", "10200004", "Liver"]
    for segment in segments:
        assert segment["tags"]["DICOM.SegmentAlgorithmType"] == "AUTOMATIC"


def test_slicer_reads_all_segments_of_a_shared_layer_an_empty_one_too(scene, tmp_path):
    segmentation = Segmentation((10, 12, 14), obliqueAffine(), NOW)
    apart = [
        found("spleen", "spleen", *np.s_[0:2, 0:3, 0:4]),
        found("liver", "liver", *np.s_[5:9, 6:9, 1:12]),
    ]
    segmentation.add("colon", "colon_tumor", None, np.zeros(segmentation.shape, bool))
    for segment in apart:
        segmentation.add(segment.task, segment.structure, segment.box, segment.mask)
    write_segmentation(tmp_path / "shared.seg.nrrd", segmentation)
    node = slicer.util.loadSegmentation(str(tmp_path / "shared.seg.nrrd"))
    assert segmentIds(node) == ["colon_tumor", "spleen", "liver"]
    assert not len(segmentPoints(node, "colon_tumor"))
    for segment in apart:
        points = segmentPoints(node, segment.structure)
        np.testing.assert_allclose(points, expectedPoints(obliqueAffine(), segment), atol=1e-4)


def test_the_module_tags_and_names_segments_as_the_command_line_does(path, tmp_path):
    libraryFile(tmp_path / "library.seg.nrrd")
    ours, library = (nrrd.read_header(str(file)) for file in (path, tmp_path / "library.seg.nrrd"))
    for number in range(len(SEGMENTS)):
        tags = []
        for header in (ours, library):
            fields = dict(
                tag.partition(":")[::2] for tag in header[f"Segment{number}_Tags"].split("|") if tag
            )
            tags.append({name: value for name, value in fields.items() if name != "Segmentation.Status"})
        assert tags[0] == tags[1]
        assert ours[f"Segment{number}_Name"] == library[f"Segment{number}_Name"]


def test_a_run_replaces_what_the_command_line_had_found(scene, tmp_path):
    libraryFile(tmp_path / "library.seg.nrrd")
    node = slicer.util.loadSegmentation(str(tmp_path / "library.seg.nrrd"))
    ids = segmentIds(node)
    smaller = found("liver", "liver_tumor", *np.s_[0:1, 0:2, 0:3])
    mrml.addSegments(node, ctNode(), [smaller], NOW)
    assert segmentIds(node) == ids
    np.testing.assert_allclose(
        segmentPoints(node, "liver-liver_tumor"), expectedPoints(obliqueAffine(), smaller), atol=1e-4
    )
    for id, segment in (("liver", SEGMENTS[0]), ("hepatic_vessel-liver_tumor", SEGMENTS[2])):
        points = segmentPoints(node, id)
        np.testing.assert_allclose(points, expectedPoints(obliqueAffine(), segment), atol=1e-4)


def test_a_run_replaces_its_segments_after_a_round_trip(path):
    back = slicer.util.loadSegmentation(str(path))
    smaller = found("liver", "liver", *np.s_[0:1, 0:2, 0:3])
    mrml.addSegments(back, ctNode(), [smaller], NOW)
    assert segmentIds(back) == IDS
    for id, segment in zip(IDS, [smaller, *SEGMENTS[1:]], strict=True):
        points = segmentPoints(back, id)
        np.testing.assert_allclose(points, expectedPoints(obliqueAffine(), segment), atol=1e-4)


def test_a_saved_scene_comes_back_whole(scene, node, tmp_path):
    volumeNode = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    for member in (volumeNode, node):
        scene.subjectHierarchyItem(member, patient)
    mrml.volumesTable(node)
    for member in (volumeNode, node, node.GetNodeReference("PartialSeg.Volumes")):
        member.AddDefaultStorageNode()
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    slicer_scene.reset()
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    back = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    fresh = segmentationNode("fresh")
    mrml.addSegments(fresh, ctNode(), map(copied, SEGMENTS), NOW)
    assertSameSegments(back, fresh)
    reference = back.GetNodeReference(back.GetReferenceImageGeometryReferenceRole())
    assert reference.GetName() == "CT"
    assert back.GetNodeReference("PartialSeg.Volumes").GetNumberOfRows() == 3
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    items = [hierarchy.GetItemByDataNode(member) for member in (back, reference)]
    assert {hierarchy.GetItemName(hierarchy.GetItemParent(item)) for item in items} == {"Patient"}
