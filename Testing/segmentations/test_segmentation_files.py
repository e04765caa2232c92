"""Segmentation files: round trips, and what independent readers (pynrrd, ITK) find in them."""

import csv
import re

import nrrd
import numpy as np
import pytest
import SimpleITK
from full_disk import full_disk
from scipy.spatial.transform import Rotation

from PartialSegLib.errors import InputError
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentation_files.formats import read_segmentation, write_segmentation
from PartialSegLib.segmentation_files.seg_nrrd import segment_tags
from PartialSegLib.structures import load_structures, terminology_entry
from PartialSegLib.volume import read_volume

SHAPE = (6, 7, 8)
PROVENANCE = {
    "model": "tiny",
    "sha256": "ab12",
    "note": 'line\nbreak, "quotes", bar | and \\ and é',
    "n": [1, 2.5],
}
NAMES = ["seg.nrrd", "nii.gz", "nii", ""]


def oblique_affine() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (11, -23, 37), degrees=True).as_matrix() * (2.5, -0.9, 0.8)
    affine[:3, 3] = (-123.25, 87.5, -1012.75)
    return affine


def filled(*box: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[box] = True
    return mask


def disjoint() -> Segmentation:
    segmentation = Segmentation(SHAPE, oblique_affine(), PROVENANCE)
    segmentation.add("kidney", "kidney", None, filled(*np.s_[0:2, 0:2, 0:2]))
    segmentation.add("spleen", "spleen", None, filled(*np.s_[3:6, 3:6, 3:6]))
    segmentation.add("colon", "colon_tumor", None, filled(*np.s_[0:0, 0:0, 0:0]))
    return segmentation


def overlapping() -> Segmentation:
    segmentation = disjoint()
    segmentation.add("liver", "liver_tumor", None, filled(*np.s_[3:5, 1:3, 2:4]))
    segmentation.add("liver", "liver", None, filled(*np.s_[2:6, 0:4, 1:5]))
    segmentation.add("hepatic vessel", "hepatic_vessel", None, filled(*np.s_[2:6, 2:3, 1:5]))
    segmentation.add("hepatic vessel", "liver_tumor", None, filled(*np.s_[3:5, 1:2, 2:5]))
    return segmentation


@pytest.mark.parametrize("name", ["seg.nrrd", ""])
@pytest.mark.parametrize("make", [disjoint, overlapping])
def test_overlapping_masks_read_back_equal(tmp_path, make, name):
    segmentation, path = make(), tmp_path / f"result.{name}".rstrip(".")
    write_segmentation(path, segmentation)
    back = read_segmentation(path)
    assert back.keys() == segmentation.keys()
    assert all(np.array_equal(back[key], segmentation[key]) for key in segmentation)
    assert back.affine == pytest.approx(segmentation.affine, rel=1e-6)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_disjoint_masks_read_back_equal_from_a_label_map(tmp_path, suffix):
    write_segmentation(tmp_path / f"result.{suffix}", disjoint())
    back = read_segmentation(tmp_path / f"result.{suffix}")
    assert all(np.array_equal(back[key], disjoint()[key]) for key in disjoint())


def test_a_label_map_draws_vessels_over_organs_and_lesions_over_both(tmp_path):
    segmentation = overlapping()
    write_segmentation(tmp_path / "result.nii.gz", segmentation)
    labels = read_volume(tmp_path / "result.nii.gz").array
    with open(tmp_path / "result.labels.csv", encoding="utf-8") as file:
        table = {(row["task"], row["structure"]): int(row["label"]) for row in csv.DictReader(file)}
    expected = np.zeros(SHAPE, int)
    order = ["kidney", "spleen", "liver", "hepatic_vessel", "colon_tumor"]
    for key in (*order, ("liver", "liver_tumor"), ("hepatic vessel", "liver_tumor")):
        found = key if isinstance(key, tuple) else next(pair for pair in table if pair[1] == key)
        expected[segmentation[key]] = table[found]
    assert sorted(table.values()) == list(range(1, 8))
    assert np.array_equal(labels, expected)


def test_an_organ_gets_the_voxels_of_its_tumours_back_from_a_label_map(tmp_path):
    segmentation = overlapping()
    write_segmentation(tmp_path / "result.nii.gz", segmentation)
    assert np.array_equal(read_segmentation(tmp_path / "result.nii.gz")["liver"], segmentation["liver"])


def vessels_and_tumors(vessel, tumor, other_tumor) -> Segmentation:
    segmentation = Segmentation(SHAPE, np.diag((10.0, 10, 10, 1)))
    segmentation.add("liver", "liver", None, filled(*np.s_[:, :, 0:6]))
    segmentation.add("liver", "liver_tumor", None, filled(*tumor))
    segmentation.add("hepatic vessel", "hepatic_vessel", None, filled(*vessel))
    segmentation.add("hepatic vessel", "liver_tumor", None, filled(*other_tumor))
    return segmentation


@pytest.mark.parametrize(
    ("vessel", "tumor", "other_tumor", "lost"),
    [
        (np.s_[0, 0, 0:6], np.s_[2:4, 2:4, 2:4], np.s_[2:4, 2:4, 2:4], ""),  # the same tumour twice
        (np.s_[0, 0, 0:6], np.s_[2:4, 2:4, 2:4], np.s_[2:4, 2:4, 3:4], ""),  # one within the other
        (np.s_[0, 0, 0:6], np.s_[2:4, 2:4, 2:4], np.s_[2:4, 2:4, 3:5], r"4 ml of liver_tumor \(liver\)"),
        (np.s_[2, 2, 0:6], np.s_[2, 2, 0:2], np.s_[0, 0, 0:1], r"2 ml of hepatic_vessel \(hepatic vessel\)"),
    ],
)
def test_a_label_map_gives_back_what_is_certain_and_tells_what_is_lost(
    tmp_path, caplog, vessel, tumor, other_tumor, lost
):
    segmentation = vessels_and_tumors(vessel, tumor, other_tumor)
    write_segmentation(tmp_path / "result.nii.gz", segmentation)
    back = read_segmentation(tmp_path / "result.nii.gz")
    equal = [np.array_equal(back[key], segmentation[key]) for key in segmentation]
    assert equal.count(False) == len(caplog.messages) == bool(lost)
    if lost:
        assert re.search(rf"result\.nii\.gz: {lost} were overwritten in .*; evaluate a \.seg", caplog.text)


def test_vessels_outside_an_organ_stay_outside_and_edited_organs_are_no_loss(tmp_path, caplog):
    segmentation = vessels_and_tumors(np.s_[0, :, 5:8], *[np.s_[0:0, 0, 0]] * 2)
    write_segmentation(tmp_path / "result.nii.gz", segmentation)
    assert not (read_segmentation(tmp_path / "result.nii.gz")["liver"] & segmentation["hepatic_vessel"]).any()
    table = tmp_path / "result.labels.csv"
    table.write_text(table.read_text().replace(",252.000,", ",400.000,"))
    caplog.clear()
    assert read_segmentation(tmp_path / "result.nii.gz").voxel_count("liver") > 0
    assert not caplog.messages


def test_the_table_of_a_label_map_tells_what_each_label_is(tmp_path):
    write_segmentation(tmp_path / "result.nii.gz", overlapping())
    with open(tmp_path / "result.labels.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[-1] == {
        "label": "7",
        "task": "hepatic vessel",
        "structure": "liver_tumor",
        "name": "liver tumor (hepatic vessel)",
        "volume_ml": f"{6 * 1.8 / 1000:.3f}",
        "color": "#ffe15a",
        "snomed_type": "4147007",
        "snomed_region": "10200004",
    }


def test_segments_carry_what_slicer_reads(tmp_path):
    segmentation = overlapping()
    write_segmentation(tmp_path / "result.seg.nrrd", segmentation)
    layers, header = nrrd.read(str(tmp_path / "result.seg.nrrd"))
    assert header["kinds"] == ["list", "domain", "domain", "domain"]
    for number, key in enumerate(segmentation):
        fields = {
            name.partition("_")[2]: value
            for name, value in header.items()
            if name.startswith(f"Segment{number}_")
        }
        mask = layers[int(fields["Layer"])] == int(fields["LabelValue"])
        assert np.array_equal(mask.T, segmentation[key])
        structure = load_structures()[key[1]]
        assert fields["Name"] == segmentation.display_name(key)
        assert np.array(fields["Color"].split(), float) * 255 == pytest.approx(structure.color, abs=0.01)
        tags = dict(tag.partition(":")[::2] for tag in fields["Tags"].split("|") if tag)
        assert tags["TerminologyEntry"] == terminology_entry(structure)
        assert tags["DICOM.SegmentAlgorithmType"] == "AUTOMATIC"
        assert tags["DICOM.SegmentAlgorithmName"] == "PartialSeg tiny"
        in_layer = np.argwhere(layers[int(fields["Layer"])])
        first, last = in_layer.min(0), in_layer.max(0)
        assert fields["Extent"] == " ".join(f"{a} {b}" for a, b in zip(first, last, strict=True))


def only_empty() -> Segmentation:
    segmentation = Segmentation(SHAPE, oblique_affine(), PROVENANCE)
    segmentation.add("colon", "colon_tumor", None, filled(*np.s_[0:0, 0:0, 0:0]))
    return segmentation


@pytest.mark.parametrize("make", [disjoint, overlapping, only_empty])
def test_old_readers_which_clip_a_layer_to_its_first_segment_lose_nothing(tmp_path, make):
    """Up to version 5.6 Slicer took a layer's extent from the first segment that lies in it."""
    write_segmentation(tmp_path / "result.seg.nrrd", make())
    layers, header = nrrd.read(str(tmp_path / "result.seg.nrrd"))
    clipped = {}
    for number, key in enumerate(make()):
        layer = int(header[f"Segment{number}_Layer"])
        extent = [int(bound) for bound in header[f"Segment{number}_Extent"].split()]
        x, y, z = (slice(first, last + 1) for first, last in zip(extent[::2], extent[1::2], strict=True))
        clipped.setdefault(layer, (layers.reshape(-1, *SHAPE[::-1])[layer, x, y, z], (z, y, x)))
        voxels, box = clipped[layer]
        mask = filled(*np.s_[0:0, 0:0, 0:0])
        mask[box] = np.equal(voxels.T, int(header[f"Segment{number}_LabelValue"]))
        assert voxels.size
        assert np.array_equal(mask, make()[key])


def test_segments_share_a_layer_unless_they_overlap(tmp_path):
    write_segmentation(tmp_path / "flat.seg.nrrd", disjoint())
    write_segmentation(tmp_path / "layers.seg.nrrd", overlapping())
    assert nrrd.read_header(str(tmp_path / "flat.seg.nrrd"))["sizes"].tolist() == [8, 7, 6]
    header = nrrd.read_header(str(tmp_path / "layers.seg.nrrd"))
    assert header["sizes"].tolist() == [3, 8, 7, 6]
    assert [int(header[f"Segment{number}_Layer"]) for number in range(7)] == [0, 0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("name", ["result.seg.nrrd", "result.nii.gz", "result.nii", "result/liver.nii.gz"])
def test_itk_finds_each_voxel_where_the_image_has_it(tmp_path, name):
    write_segmentation(tmp_path / name.partition("/")[0], overlapping())
    image = SimpleITK.ReadImage(str(tmp_path / name))
    for index in ((0, 0, 0), (5, 6, 7), (2, 0, 4)):
        lps = image.TransformIndexToPhysicalPoint(index[::-1])
        assert (-lps[0], -lps[1], lps[2]) == pytest.approx((oblique_affine() @ (*index, 1))[:3], abs=1e-3)


def test_provenance_travels_with_the_segments(tmp_path):
    write_segmentation(tmp_path / "result.seg.nrrd", disjoint())
    assert read_segmentation(tmp_path / "result.seg.nrrd").provenance == PROVENANCE


@pytest.mark.parametrize("name", NAMES)
def test_equal_segmentations_give_equal_bytes(tmp_path, name):
    for folder in ("first", "second"):
        write_segmentation(tmp_path / folder / f"result.{name}".rstrip("."), overlapping())
    first, second = (
        {path.relative_to(tmp_path / folder): path.read_bytes() for path in (tmp_path / folder).rglob("*.*")}
        for folder in ("first", "second")
    )
    assert first
    assert first == second


@pytest.mark.parametrize("name", ["result.seg.nrrd", "result.nii.gz", "result"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, name):
    with full_disk(room_bytes=100), pytest.raises(InputError, match=r"Cannot write .*free some space"):
        write_segmentation(tmp_path / name, overlapping())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_new", [True, False])
def test_a_label_map_and_its_table_are_both_new_or_both_old(tmp_path, is_new):
    path, table = tmp_path / "result.nii.gz", tmp_path / "result.labels.csv"
    if not is_new:
        write_segmentation(path, disjoint())
        path.unlink()
    old = None if is_new else table.read_bytes()
    path.mkdir()  # so that the second rename fails
    with pytest.raises(InputError, match=r"Cannot write .*result\.nii\.gz: Is a directory; choose another"):
        write_segmentation(path, overlapping())
    assert (table.read_bytes() if table.exists() else None) == old
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, *([] if is_new else [table.name])}


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    (tmp_path / "result.seg.nrrd").mkdir()
    with pytest.raises(InputError, match=r"result\.seg\.nrrd: Is a directory"):
        write_segmentation(tmp_path / "result.seg.nrrd", disjoint())
    assert not list((tmp_path / "result.seg.nrrd").iterdir())


def test_a_folder_is_filled_up_without_touching_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_segmentation(tmp_path, overlapping())
    write_segmentation(tmp_path, overlapping())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(
            "colon_tumor.nii.gz",
            "hepatic_vessel-liver_tumor.nii.gz",
            "hepatic_vessel.nii.gz",
            "kidney.nii.gz",
        ),
        *("labels.csv", "liver-liver_tumor.nii.gz", "liver.nii.gz", "notes.txt", "spleen.nii.gz"),
    ]


def test_a_folder_holds_one_segmentation_and_what_is_not_ours(tmp_path, caplog):
    written = [Segmentation(SHAPE, np.eye(4)) for _ in range(2)]
    written[0].add("liver", "liver", None, np.ones(SHAPE, bool))
    written[1].add("spleen", "spleen", None, np.ones(SHAPE, bool))
    write_segmentation(tmp_path, written[0])
    before = (tmp_path / "liver.nii.gz").read_bytes()
    (tmp_path / "other.nii.gz").touch()
    (tmp_path / "labels.csv").write_text(f"{(tmp_path / 'labels.csv').read_text()}../x.nii.gz,,x,,,,,\n")
    (tmp_path.parent / "x.nii.gz").touch()
    with full_disk(room_bytes=100), pytest.raises(InputError, match="Cannot write"):
        write_segmentation(tmp_path, written[1])
    assert (tmp_path / "liver.nii.gz").read_bytes() == before
    write_segmentation(tmp_path, written[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv", "other.nii.gz", "spleen.nii.gz"]
    assert (tmp_path.parent / "x.nii.gz").exists()
    assert "masks of the earlier segmentation were removed: liver.nii.gz." in caplog.text


@pytest.mark.parametrize("name", ["", "two.nii.gz"])
def test_tables_of_something_else_are_not_replaced(tmp_path, name):
    table = tmp_path / ("two.labels.csv" if name else "labels.csv")
    for text in ("patient,label\nP1,benign\n", ""):
        table.write_text(text)
        with pytest.raises(InputError, match=rf"{table.name} is no table of labels .*choose another name"):
            write_segmentation(tmp_path / name, disjoint())
        assert table.read_text() == text
        assert list(tmp_path.iterdir()) == [table]
    table.write_text('\ufeff"label";"task";"structure"\n', encoding="utf-8")
    write_segmentation(tmp_path / name, disjoint())


def test_masks_of_other_origin_are_neither_replaced_nor_hidden(tmp_path):
    image, aorta = tmp_path / "ct.nii.gz", tmp_path / "aorta.nii.gz"
    image.touch()
    write_segmentation(tmp_path, disjoint())  # an image that is no mask is in nobody's way
    aorta.touch()
    write_segmentation(tmp_path, disjoint())
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(
        InputError, match=r"not of an earlier run .*: aorta\.nii\.gz, .*; choose another folder"
    ):
        write_segmentation(tmp_path, disjoint())
    write_segmentation(tmp_path / "b", disjoint())
    liver = tmp_path / "b" / "liver.nii.gz"
    liver.write_text("by hand")
    with pytest.raises(InputError, match=r"not of an earlier run .*: liver\.nii\.gz; choose another folder"):
        write_segmentation(tmp_path / "b", overlapping())
    assert liver.read_text() == "by hand"
    assert not (tmp_path / "b" / "hepatic_vessel.nii.gz").exists()


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"written as \.seg\.nrrd, \.nii\.gz, \.nii, \.dcm or into a folder"):
        write_segmentation(tmp_path / "result.png", disjoint())


def test_a_label_of_256_needs_two_bytes(tmp_path):
    segmentation = Segmentation(SHAPE, np.eye(4))
    segmentation.add("", "liver", None, filled(*np.s_[0:2, 0:2, 0:2]))
    segmentation.label_values = {("", "liver"): 256}
    write_segmentation(tmp_path / "result.nii.gz", segmentation)
    assert set(np.unique(read_volume(tmp_path / "result.nii.gz").array)) == {0, 256}


def test_more_segments_than_a_byte_counts_need_a_second_layer(tmp_path):
    segmentation = Segmentation(SHAPE, oblique_affine())
    for number in range(256):
        mask = np.zeros(SHAPE, bool)
        mask.flat[number] = True
        segmentation.add(f"task {number}", "liver", None, mask)
    write_segmentation(tmp_path / "result.seg.nrrd", segmentation)
    back = read_segmentation(tmp_path / "result.seg.nrrd")
    assert all(np.array_equal(back[key], segmentation[key]) for key in segmentation)


def test_the_name_of_the_algorithm_is_as_long_as_dicom_allows():
    name = segment_tags("liver", "liver", 1, {"model": "m" * 100})["DICOM.SegmentAlgorithmName"]
    assert name == "PartialSeg " + "m" * 53


def test_the_grid_of_the_image_is_told_to_slicer(tmp_path):
    write_segmentation(tmp_path / "result.seg.nrrd", disjoint())
    parameters = nrrd.read_header(str(tmp_path / "result.seg.nrrd"))["Segmentation_ConversionParameters"]
    numbers = [float(word) for word in parameters.split("|")[1].strip(";").split(";")]
    corner = np.array(numbers[:16]).reshape(4, 4) @ (7, 6, 5, 1)  # IJK
    assert corner == pytest.approx(oblique_affine() @ (5, 6, 7, 1))
    assert numbers[16:] == [0, 7, 0, 6, 0, 5]


def test_a_tumour_wholly_below_a_larger_one_of_another_task_is_told_to_be_lost(tmp_path, caplog):
    tumor, larger = np.s_[2:4, 2:4, 2:4], np.s_[2:4, 2:4, 2:5]
    write_segmentation(tmp_path / "result.nii.gz", vessels_and_tumors(np.s_[0, 0, 0:6], tumor, larger))
    back = read_segmentation(tmp_path / "result.nii.gz")
    assert not back["liver", "liver_tumor"].any()
    assert "8 ml of liver_tumor (liver) were overwritten" in caplog.text


def test_an_organ_gets_the_tumour_of_its_own_task_back_not_an_equally_large_one_elsewhere(tmp_path):
    nothing, tumor, elsewhere = np.s_[0:0, 0, 0], np.s_[2:4, 2:4, 2:4], np.s_[2:4, 2:4, 6:8]
    segmentation = vessels_and_tumors(nothing, tumor, elsewhere)
    write_segmentation(tmp_path / "result.nii.gz", segmentation)
    assert np.array_equal(read_segmentation(tmp_path / "result.nii.gz")["liver"], segmentation["liver"])


def test_volumes_may_have_a_decimal_comma(tmp_path):
    """As a table saved by a German Excel: here they alone tell that a tumour lies below another one."""
    tumor = np.s_[2:4, 2:4, 2:4]
    segmentation = vessels_and_tumors(np.s_[0, 0, 0:6], tumor, tumor)
    write_segmentation(tmp_path / "result.nii.gz", segmentation)
    table = tmp_path / "result.labels.csv"
    table.write_text(table.read_text().replace(",", ";").replace(".000;", ",000;"))
    back = read_segmentation(tmp_path / "result.nii.gz")
    assert all(np.array_equal(back[key], segmentation[key]) for key in segmentation)


def test_a_table_may_be_in_the_encoding_of_an_older_excel(tmp_path):
    write_segmentation(tmp_path / "result.nii.gz", overlapping())
    table = tmp_path / "result.labels.csv"
    table.write_bytes(table.read_text().replace("spleen", "Größe").replace(",", ";").encode("cp1252"))
    assert "Größe" in {structure for _, structure in read_segmentation(tmp_path / "result.nii.gz")}


def test_a_mask_whose_name_differs_in_capitals_alone_is_not_removed(tmp_path):
    """On Windows and macOS it is the new one."""
    for name in ("Liver", "liver"):
        segmentation = Segmentation(SHAPE, np.eye(4))
        segmentation.add("", name, None, np.ones(SHAPE, bool))
        write_segmentation(tmp_path, segmentation)
    assert (tmp_path / "Liver.nii.gz").exists()
    assert (tmp_path / "liver.nii.gz").exists()
