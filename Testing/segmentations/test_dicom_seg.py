"""DICOM segmentations: read back by highdicom and by us, those of others, and what is refused."""

import re
from dataclasses import replace

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_folders import FRAME, SHAPE, Series, write_series, write_study
from tiny_model import TASKS, write_tiny_model

from PartialSegLib.__main__ import main
from PartialSegLib.errors import InputError
from PartialSegLib.evaluation import evaluate
from PartialSegLib.manifest import Preprocessing
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentation_files import dicom_seg
from PartialSegLib.segmentation_files.formats import read_segmentation, write_segmentation
from PartialSegLib.volume import read_volume, write_volume

AXIAL = Series()
ORIENTATIONS = {
    "axial": AXIAL,
    "stacked downwards": Series(step=(0, 0, -2.5)),
    "coronal": Series(step=(0, 2.5, 0), orientation=(1, 0, 0, 0, 0, -1)),
}


def segmentation_of(folder, **which):
    """Two masks that overlap, and one of nothing."""
    volume = read_volume(folder, **which)
    provenance = {
        "software": "PartialSeg 9",
        "model": "tiny",
        "model_version": "1.2",
        "weights_sha256": "f" * 64,
    }
    found = Segmentation(volume.shape, volume.affine, provenance)
    rng = np.random.default_rng(3)
    found.add("liver", "liver", None, rng.random(SHAPE) > 0.5)
    found.add("liver", "liver_tumor", None, np.zeros(SHAPE, bool))
    found.add("kidney", "right_kidney", None, rng.random(SHAPE) > 0.7)
    found.add("hepatic vessel", "liver_tumor", None, rng.random(SHAPE) > 0.9)
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("series", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_masks_lie_on_their_slices_with_names_codes_and_colours(series, tmp_path):
    folder = write_study(tmp_path / "ct", series)
    found = segmentation_of(folder)
    write_segmentation(tmp_path / "out.dcm", found, folder)
    written = highdicom.seg.segread(tmp_path / "out.dcm")
    keys = list(found)
    assert [written.get_segment_description(n).tracking_id for n in (1, 2, 3, 4)] == [
        "/".join(key) for key in keys
    ]
    files, _, _ = dicom_seg.read_dicom_grid(folder)
    slices = [pydicom.dcmread(file).SOPInstanceUID for file in files]
    masks = written.get_pixels_by_source_instance(slices, ignore_spatial_locations=False)
    for index, key in enumerate(keys):
        np.testing.assert_array_equal(masks[..., index], found[key], str(key))
    liver, kidney, tumor = (written.get_segment_description(number) for number in (1, 3, 4))
    assert (liver.segment_label, liver.segmented_property_type.value) == ("liver", "10200004")
    assert highdicom.color.CIELabColor.from_dicom_value(liver.RecommendedDisplayCIELabValue).to_rgb() == (
        pytest.approx(found.structure_of("liver").color, abs=2)
    )
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert side.CodeMeaning == "Right"
    assert tumor.segment_label == "liver tumor (hepatic vessel)"
    assert (tumor.segmented_property_category.value, tumor.segmented_property_type.value) == (
        "49755003",
        "4147007",
    )
    assert [region.value for region in tumor.anatomic_regions] == ["10200004"]
    assert tumor.algorithm_identification.name == "PartialSeg tiny"
    assert tumor.algorithm_identification.version == "1.2"


def test_what_was_not_found_has_segments_all_the_same(tmp_path):
    folder = write_study(tmp_path / "ct")
    volume = read_volume(folder)
    found = Segmentation(volume.shape, volume.affine)
    found.add("liver", "liver", None, np.zeros(SHAPE, bool))
    found.add("spleen", "spleen", None, np.zeros(SHAPE, bool))
    write_segmentation(tmp_path / "nothing.dcm", found, folder)
    written = pydicom.dcmread(tmp_path / "nothing.dcm")
    assert [segment.TrackingID for segment in written.SegmentSequence] == ["liver/liver", "spleen/spleen"]
    assert written.NumberOfFrames == 2
    assert not any(written.PixelData[:10])  # the rest fills the last byte
    part = np.zeros(SHAPE, bool)
    part[2, 3, 3] = part[3, 1, 1] = True
    found.add("lung", "lung_tumor", None, part)
    write_segmentation(tmp_path / "little.dcm", found, folder)
    written = pydicom.dcmread(tmp_path / "little.dcm")
    assert written.NumberOfFrames == 2
    assert len(written.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 2


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_belongs_to_the_study_of_its_source(tmp_path):
    folder = write_study(tmp_path / "ct")
    write_segmentation(tmp_path / "out.dcm", segmentation_of(folder), folder)
    written = pydicom.dcmread(tmp_path / "out.dcm")
    assert (written.PatientName, written.StudyDate, written.Modality) == ("Doe^Jane", "20200102", "SEG")
    assert written.FrameOfReferenceUID == FRAME
    assert written.StudyInstanceUID == "1.2"
    assert written.SeriesInstanceUID != AXIAL.uid
    assert written.ContentDescription == "Research use only"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("", "Doe"),
        (None, "Doe"),
        ("ISO_IR 100", "Müller^Jörg"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
    ],
    ids=["empty", "none", "Latin", "Japanese"],
)
def test_names_in_any_alphabet_are_repeated(charset, name, tmp_path):
    folder = write_study(tmp_path / "ct", SpecificCharacterSet=charset, PatientName=name)
    write_segmentation(tmp_path / "out.dcm", segmentation_of(folder), folder)
    assert pydicom.dcmread(tmp_path / "out.dcm").PatientName == name


def test_of_several_series_the_one_that_was_segmented_is_named(tmp_path):
    folder = write_study(tmp_path / "ct", Series(uid="1.2.3", description="native"))
    write_study(folder, Series(uid="1.2.4", description="venous", step=(0, 0, 3)))
    found = segmentation_of(folder, series="venous")
    with pytest.raises(InputError, match="another grid than the series"):
        write_segmentation(tmp_path / "out.dcm", found, folder, series="native")
    write_segmentation(tmp_path / "out.dcm", found, folder, series="venous")
    sources = pydicom.dcmread(tmp_path / "out.dcm").ReferencedSeriesSequence
    assert [source.SeriesInstanceUID for source in sources] == ["1.2.4"]


def test_what_cannot_be_written_is_said_in_one_sentence(tmp_path, monkeypatch):
    folder = write_study(tmp_path / "ct")
    found, out = segmentation_of(folder), tmp_path / "out.dcm"
    empty = Segmentation(found.shape, found.affine)
    bare = write_series(tmp_path / "bare")
    cases = [
        ((out, found), "give a folder with their DICOM series, not nothing"),
        ((out, found, tmp_path / "ct.nii.gz"), "give a folder with their DICOM series"),
        ((out, empty, folder), "at least one segment"),
        ((out, found, bare), "lacks what a DICOM segmentation has to repeat"),
    ]
    for given, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            write_segmentation(*given)
    monkeypatch.setattr(dicom_seg, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install highdicom"):
        write_segmentation(out, found, folder)
    assert not out.exists()


def test_an_image_is_never_replaced(tmp_path, capsys):
    folder = write_study(tmp_path / "ct")
    found = segmentation_of(folder)
    image = folder / f"{AXIAL.uid}-0.dcm"
    before = image.read_bytes()
    with pytest.raises(InputError, match="is no DICOM segmentation and would be replaced"):
        write_segmentation(image, found, folder)
    assert main(["segment", str(folder), "-o", str(image)]) == 2
    assert "would be replaced" in capsys.readouterr().err
    assert image.read_bytes() == before
    for _ in range(2):  # an earlier segmentation is
        write_segmentation(folder / "segmentation.dcm", found, folder)
    assert len(list(folder.iterdir())) == SHAPE[0] + 1


def test_the_command_line_writes_it_for_a_folder_and_refuses_a_file(tmp_path, capsys):
    write_tiny_model(tmp_path / "tiny", TASKS, Preprocessing("SAR", (2.5, 0.9, 0.8), (-1000, 1000)))
    folder, out = write_study(tmp_path / "ct"), tmp_path / "out.dcm"
    arguments = ["-o", str(out), "--model", str(tmp_path / "tiny"), "--device", "cpu", "--force"]
    assert main(["segment", str(folder), *arguments]) == 0
    described = pydicom.dcmread(out).SegmentSequence
    keys = [f"{task.name}/{structure}" for task in TASKS for structure in task.structures]
    assert [segment.TrackingID for segment in described] == keys
    out.unlink()
    assert main(["segment", str(tmp_path / "ct.nii.gz"), *arguments]) == 2
    assert "give a folder with their DICOM series" in capsys.readouterr().err
    assert not out.exists()


def test_a_batch_writes_one_for_each_folder_and_refuses_files(tmp_path, capsys):
    write_tiny_model(tmp_path / "tiny", TASKS, Preprocessing("SAR", (2.5, 0.9, 0.8), (-1000, 1000)))
    for name in "ab":
        (tmp_path / "cts" / name).mkdir(parents=True)
        write_study(tmp_path / "cts" / name)
    arguments = ["-o", str(tmp_path / "out"), "--model", str(tmp_path / "tiny"), "--device", "cpu", "--force"]
    assert main(["batch", str(tmp_path / "cts"), "--format", ".dcm", *arguments]) == 0
    for name in "ab":
        assert pydicom.dcmread(tmp_path / "out" / f"{name}.dcm").Modality == "SEG"
    write_volume(tmp_path / "ct.nii.gz", read_volume(tmp_path / "cts" / "a"))
    capsys.readouterr()
    assert main(["batch", str(tmp_path / "ct.nii.gz"), "--format", ".dcm", *arguments]) == 2
    assert "for folders with DICOM images" in capsys.readouterr().err


def written_part(tmp_path, series=AXIAL):
    """A segmentation of two slices of a series, and the file that was written."""
    folder = write_study(tmp_path / "ct", series)
    volume = read_volume(folder)
    found = Segmentation(volume.shape, volume.affine, {"model": "tiny"})
    masks = np.zeros((3, *SHAPE), bool)
    masks[0, 1:3, 2:5, 1:6], masks[1, 2, 3:5, 2:4] = True, True
    for key, mask in zip((("liver", "liver"), ("liver", "liver_tumor"), ("a/b", "mine")), masks, strict=True):
        found.add(*key, None, mask)
    write_segmentation(tmp_path / "out.dcm", found, folder)
    return found, tmp_path / "out.dcm"


@pytest.mark.parametrize("series", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_what_was_written_is_read_again_and_scored_where_it_lies(series, tmp_path):
    found, file = written_part(tmp_path, series)
    again = read_segmentation(file)
    assert again.keys() == found.keys()
    assert again.is_part
    assert again.shape == (2, *SHAPE[1:])
    assert [again.voxel_count(key) for key in again] == [found.voxel_count(key) for key in found]
    for one, other in ((found, again), (again, again)):
        scores = {score.structure: score.dice for score in evaluate(one, other)}
        assert scores == {"liver": 1, "liver_tumor": 1, "mine": 1}
    moved = found.affine.copy()
    moved[:3, 3] += 0.4
    apart = replace(found, affine=moved)
    for key in found:
        apart.add(*key, None, found[key])
    with pytest.raises(InputError, match="lie on different grids"):
        evaluate(apart, again)


def test_a_wrong_distance_of_slices_is_neither_repeated_nor_believed(tmp_path):
    folder = write_study(tmp_path / "ct", SpacingBetweenSlices="1")
    volume = read_volume(folder)
    found = Segmentation(volume.shape, volume.affine)
    found.add("liver", "liver", None, np.ones(SHAPE, bool))
    write_segmentation(tmp_path / "out.dcm", found, folder)
    stored = pydicom.dcmread(tmp_path / "out.dcm")
    measures = stored.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == 2.5
    measures.SpacingBetweenSlices = 1
    stored.save_as(tmp_path / "out.dcm")
    (score,) = evaluate(found, read_segmentation(tmp_path / "out.dcm"))
    assert score.dice == 1


def test_segments_of_others_are_known_by_code_and_by_label(tmp_path):
    """Two tumours of the liver are one structure; what has no code of ours goes by its label."""
    _, file = written_part(tmp_path)
    stored = pydicom.dcmread(file)
    for number, (segment, label) in enumerate(
        zip(stored.SegmentSequence, ("Leber", "Tumor_2", "Left Kidney"), strict=True)
    ):
        segment.SegmentLabel = label
        segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName = "by hand"
        if number == 0:  # another tumour
            tumor = stored.SegmentSequence[1]
            segment.SegmentedPropertyTypeCodeSequence = tumor.SegmentedPropertyTypeCodeSequence
            segment.AnatomicRegionSequence = tumor.AnatomicRegionSequence
    stored.save_as(file)
    again = read_segmentation(file)
    assert again.keys() == [("", "liver_tumor"), ("", "left_kidney")]
    assert again.voxel_count("liver_tumor") == 2 * 3 * 5


def test_references_in_dicom_are_scored_and_described(tmp_path, capsys):
    found, file = written_part(tmp_path)
    (tmp_path / "series").mkdir()
    file.rename(tmp_path / "series" / "1-1.dcm")
    assert read_segmentation(tmp_path / "series").keys() == found.keys()
    (tmp_path / "series" / "1-1.dcm").rename(tmp_path / "a.dcm")
    write_segmentation(tmp_path / "predictions" / "a.seg.nrrd", found)
    (tmp_path / "references").mkdir()
    (tmp_path / "a.dcm").rename(tmp_path / "references" / "a.dcm")
    given = ["evaluate", str(tmp_path / "predictions"), str(tmp_path / "references"), "--structure", "liver"]
    assert main([*given, "-o", str(tmp_path / "scores.csv")]) == 0
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("a,liver,liver,1.0,1.0,0.0,")
    capsys.readouterr()
    assert main(["info", str(tmp_path / "references" / "a.dcm")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"manufacturer +PartialSeg", out)
    assert re.search(r"(?m)^liver +liver_tumor +\d", out)


def test_what_is_no_dicom_segmentation_is_refused(tmp_path, monkeypatch):
    _, file = written_part(tmp_path)
    with pytest.raises(InputError, match="is no DICOM segmentation; give one"):
        read_segmentation(tmp_path / "ct" / f"{AXIAL.uid}-0.dcm")
    stored = pydicom.dcmread(file)
    del stored.SegmentSequence
    stored.save_as(tmp_path / "cut.dcm")
    with pytest.raises(InputError, match=r"cut\.dcm cannot be read as a DICOM segmentation \("):
        read_segmentation(tmp_path / "cut.dcm")
    content = file.read_bytes()
    for missing in range(20, 420, 20):  # a copy that broke off
        (tmp_path / "half.dcm").write_bytes(content[:-missing])
        with pytest.raises(InputError, match=r"half\.dcm cannot be read as a DICOM segmentation \("):
            read_segmentation(tmp_path / "half.dcm")
    monkeypatch.setattr(dicom_seg, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install highdicom"):
        read_segmentation(file)
