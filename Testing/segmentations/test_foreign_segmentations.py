"""Segmentations that other programs wrote, and files that only look like one."""

import json
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest

from PartialSegLib.errors import InputError
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentation_files.formats import read_segmentation, write_segmentation
from PartialSegLib.volume import Volume, write_volume

LIVER = np.zeros((3, 4, 5), bool)
LIVER[0:2, 0:2, 0:2] = True


def test_masks_without_a_table_are_named_by_their_files(tmp_path):
    mask = Volume(LIVER, np.eye(4))
    for name in ("liver.nii.gz", "kidney-kidney_tumor.nrrd"):
        write_volume(tmp_path / name, mask)
    assert read_segmentation(tmp_path).keys() == [("kidney", "kidney_tumor"), ("", "liver")]
    assert np.array_equal(read_segmentation(tmp_path / "liver.nii.gz")["liver"], mask.array)


def test_masks_of_0_and_255_are_masks_and_other_values_are_not(tmp_path):
    for name, value in (("liver", 255), ("spleen", 1)):
        write_volume(tmp_path / f"{name}.nii.gz", Volume(LIVER * np.uint8(value), np.eye(4)))
    segmentation = read_segmentation(tmp_path)
    assert np.array_equal(segmentation["liver"], LIVER)
    labels = np.where(LIVER, 255, 1).astype(np.uint8)
    write_volume(tmp_path / "liver.nii.gz", Volume(labels, np.eye(4)))
    with pytest.raises(InputError, match=r"liver\.nii\.gz: A mask holds 0 and 1 \(or 255\) only"):
        read_segmentation(tmp_path)


def test_two_label_maps_do_not_share_a_table(tmp_path):
    segmentation = Segmentation(LIVER.shape, np.eye(4))
    segmentation.add("liver", "liver", None, LIVER)
    for _ in range(2):
        write_segmentation(tmp_path / "x.nii.gz", segmentation)
    with pytest.raises(
        InputError, match=r"x\.labels\.csv says what the labels of x\.nii\.gz are, and x\.nii"
    ):
        write_segmentation(tmp_path / "x.nii", segmentation)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.labels.csv", "x.nii.gz"]


def test_segments_made_elsewhere_are_named_by_their_segments(tmp_path):
    segmentation = Segmentation(LIVER.shape, np.eye(4))
    segmentation.add("liver", "liver", None, LIVER)
    segmentation.add("spleen", "spleen", None, ~LIVER)
    write_segmentation(tmp_path / "ours.seg.nrrd", segmentation)
    data, header = nrrd.read(str(tmp_path / "ours.seg.nrrd"))
    header = {name: value for name, value in header.items() if not name.endswith("_Tags")}
    header["Segment0_Name"] = "Left Ventricle (LV)"
    nrrd.write(str(tmp_path / "theirs.seg.nrrd"), data, header)
    segmentation = read_segmentation(tmp_path / "theirs.seg.nrrd")
    assert segmentation.keys() == [("", "left_ventricle_lv"), ("", "spleen")]
    assert segmentation.structure_of("left_ventricle_lv").type.meaning == "Tissue"


def two_segments(path: Path, first: dict[str, str], second: dict[str, str], start: int = 0) -> None:
    """Two layers, one segment in each with value 1, and only the given fields beside ID and name."""
    segments = [{"ID": "a", "Name": "Liver"} | first, {"ID": "b", "Name": "Spleen"} | second]
    fields = {
        f"Segment{number}_{name}": value
        for number, segment in enumerate(segments, start)
        for name, value in segment.items()
    }
    directions = [[np.nan] * 3, *np.eye(3).tolist()]
    kinds = ["list", "domain", "domain", "domain"]
    header = {"space": "left-posterior-superior", "space directions": directions, "kinds": kinds}
    nrrd.write(str(path), np.stack([LIVER.T, ~LIVER.T]).astype(np.uint8), {**header, **fields})


@pytest.mark.parametrize("start", [0, 1])
def test_segments_without_layer_and_label_have_a_layer_each_as_in_old_slicer(tmp_path, start):
    two_segments(tmp_path / "old.seg.nrrd", {}, {}, start)
    segmentation = read_segmentation(tmp_path / "old.seg.nrrd")
    assert segmentation.keys() == [("", "liver"), ("", "spleen")]
    assert np.array_equal(segmentation["liver"], LIVER)
    assert np.array_equal(segmentation["spleen"], ~LIVER)


def test_a_tag_chooses_no_place_for_a_mask(tmp_path):
    two_segments(tmp_path / "x.seg.nrrd", {"Tags": "PartialSeg.Structure:../../escaped|"}, {})
    segmentation = read_segmentation(tmp_path / "x.seg.nrrd")
    write_segmentation(tmp_path / "far" / "down", segmentation)
    assert not list(tmp_path.glob("*escaped*"))
    back = read_segmentation(tmp_path / "far" / "down")
    assert back.keys() == segmentation.keys() == [("", "../../escaped"), ("", "spleen")]
    assert np.array_equal(back["../../escaped"], LIVER)


def test_damaged_provenance_is_passed_over(tmp_path):
    damaged, good = ({"Tags": f"PartialSeg.Provenance:{text}|"} for text in ("{abc", '{"model": "tiny"}'))
    two_segments(tmp_path / "damaged.seg.nrrd", damaged, good)
    assert read_segmentation(tmp_path / "damaged.seg.nrrd").provenance == {"model": "tiny"}


@pytest.mark.parametrize(
    ("name", "structure"), [("Liver corrected", "liver_corrected"), ("liver", "liver_2")]
)
def test_a_segment_that_was_copied_with_its_tags_is_called_by_its_name(tmp_path, name, structure):
    tags = {"Tags": "PartialSeg.Task:liver|PartialSeg.Structure:liver|"}
    two_segments(tmp_path / "copied.seg.nrrd", tags, {"Name": name} | tags)
    segmentation = read_segmentation(tmp_path / "copied.seg.nrrd")
    assert segmentation.keys() == [("liver", "liver"), ("", structure)]
    assert np.array_equal(segmentation[structure], ~LIVER)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5)])
def test_a_segmentation_of_another_dimension_is_refused(tmp_path, shape):
    nrrd.write(str(tmp_path / "flat.seg.nrrd"), np.ones(shape, np.uint8))
    with pytest.raises(
        InputError, match=rf"flat\.seg\.nrrd: The image is {len(shape)}-D, a 3-D one is needed"
    ):
        read_segmentation(tmp_path / "flat.seg.nrrd")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"Layer": "x"}, "Segment1_Layer is 'x', not a whole number"),
        ({"LabelValue": "1.5"}, r"Segment1_LabelValue is '1\.5', not a whole number"),
        ({"Layer": "7"}, "spleen should be in layer 7, but the layers are 0 to 1"),
    ],
)
def test_a_segment_in_no_layer_is_refused_with_the_path(tmp_path, fields, sentence):
    two_segments(tmp_path / "bad.seg.nrrd", {}, fields)
    with pytest.raises(InputError, match=rf"bad\.seg\.nrrd: .*{sentence}"):
        read_segmentation(tmp_path / "bad.seg.nrrd")


def test_tables_are_read_as_excel_saves_them(tmp_path):
    segmentation = Segmentation(LIVER.shape, np.eye(4))
    segmentation.add("liver", "liver", None, LIVER)
    write_segmentation(tmp_path / "map.nii.gz", segmentation)
    table = tmp_path / "map.labels.csv"
    text = table.read_text(encoding="utf-8").replace("Liver", "Léber")
    for saved in (text.encode("utf-8-sig"), text.replace(",", ";").encode("cp1252")):
        table.write_bytes(saved)
        assert np.array_equal(read_segmentation(tmp_path / "map.nii.gz")["liver", "liver"], LIVER)


def test_labels_that_the_table_lacks_are_told(tmp_path, caplog):
    write_volume(tmp_path / "map.nii.gz", Volume(LIVER * 1 + ~LIVER * 7, np.eye(4)))
    (tmp_path / "map.labels.csv").write_text("label,task,structure\n1,,liver\n")
    assert read_segmentation(tmp_path / "map.nii.gz").keys() == [("", "liver")]
    assert "labels that map.labels.csv does not name were left out: 7." in caplog.text
    (tmp_path / "map.labels.csv").unlink()
    assert read_segmentation(tmp_path / "map.nii.gz", {"liver": (1,)}).keys() == [("", "liver")]
    assert "labels that are not named were left out: 7." in caplog.text


@pytest.mark.parametrize(("kind", "left_out"), [(np.int16, []), (np.float32, ["0.5."])])
def test_labels_are_found_whatever_their_numbers(tmp_path, caplog, kind, left_out):
    labels = np.random.default_rng(0).choice([-300, -4, 0, 1, 2, 30000], (5, 6, 7)).astype(kind)
    if kind is np.float32:
        labels[4, 5] = 40000, 40000, 0.5, 1, 1, 1, 1  # beyond what int16 holds
    write_volume(tmp_path / "map.nii.gz", Volume(labels, np.eye(4)))
    values = {"odd": (1,), "zero": (0, 2), "below": (-4,), "large": (30000, 40000), "absent": (9, 70000)}
    contents = {"labels": {name: list(numbers) for name, numbers in values.items()} | {"ignore": -300}}
    (tmp_path / "dataset.json").write_text(json.dumps(contents))
    segmentation = read_segmentation(tmp_path / "map.nii.gz")
    for name, numbers in values.items():
        assert np.array_equal(segmentation[name], np.isin(labels, numbers)), name
    assert np.array_equal(segmentation.ignored.filled(labels.shape), labels == -300)
    assert [text.rpartition("left out: ")[2] for text in caplog.messages] == left_out


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])  # the latter of editors on Windows
def test_a_dataset_json_names_the_labels_beside_it_or_below(tmp_path, encoding):
    write_volume(tmp_path / "labelsTr" / "x.nii.gz", Volume(LIVER * 2 + ~LIVER, np.eye(4)))
    (tmp_path / "dataset.json").write_text(
        '{"labels": {"background": 0, "all": [1, 2], "liver": 2, "ignore": 3}}', encoding
    )
    segmentation = read_segmentation(tmp_path / "labelsTr" / "x.nii.gz")
    assert segmentation.keys() == [("", "all"), ("", "liver")]
    assert segmentation["all"].all()
    assert np.array_equal(segmentation["liver"], LIVER)
    named = read_segmentation(tmp_path / "labelsTr" / "x.nii.gz", {"spleen": (1,)})
    assert np.array_equal(named["spleen"], ~LIVER)


def test_labels_of_one_name_in_a_dataset_json_are_one_structure(tmp_path, caplog):
    write_volume(tmp_path / "x.nii.gz", Volume(LIVER * 2 + ~LIVER, np.eye(4)))
    contents = {"labels": {"0": "background", "1": "lesion", "2": "lesion", "3": "spleen"}}
    (tmp_path / "dataset.json").write_text(json.dumps(contents))
    segmentation = read_segmentation(tmp_path / "x.nii.gz")
    assert segmentation.keys() == [("", "lesion"), ("", "spleen")]
    assert segmentation["lesion"].all()
    assert not caplog.messages


@pytest.mark.parametrize(
    "folder", ["gt_segmentations", "trainer/fold_0/validation", "fold_0/validation/more"]
)
def test_a_dataset_json_of_nnunet_names_the_labels_up_to_three_folders_below(tmp_path, folder):
    for name in ("x", "spleen"):
        write_volume(tmp_path / folder / f"{name}.nii.gz", Volume(LIVER, np.eye(4)))
    file, labels = tmp_path / "dataset.json", {"labels": {"background": 0, "liver": 1}}
    for other in ("{damaged", json.dumps(labels), "[]"):
        file.write_text(other)
        assert read_segmentation(tmp_path / folder / "x.nii.gz").keys() == [("", "x")]
    file.write_text(
        json.dumps(labels | {"channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz"})
    )
    (tmp_path / folder / "dataset.json").write_text('{"of": "something else"}')
    assert read_segmentation(tmp_path / folder / "x.nii.gz").keys() == [("", "liver")]
    assert read_segmentation(tmp_path / folder / "spleen.nii.gz").keys() == [("", "spleen")]


def test_hidden_files_are_no_masks_and_a_mask_is_there_once(tmp_path):
    write_volume(tmp_path / "liver.nii.gz", Volume(LIVER, np.eye(4)))
    (tmp_path / "._liver.nii.gz").touch()
    assert read_segmentation(tmp_path).keys() == [("", "liver")]
    write_volume(tmp_path / "liver.nrrd", Volume(LIVER, np.eye(4)))
    with pytest.raises(InputError, match="a second file of the mask liver"):
        read_segmentation(tmp_path)


def text_file(path: Path) -> None:
    path.write_text("not an image")


def nrrd_with_a_field_that_is_no_utf8(path: Path) -> None:
    plain_nrrd(path)
    path.write_bytes(path.read_bytes().replace(b"\n\n", b"\nSegment0_\xff:=liver\n\n", 1))


def plain_nrrd(path: Path) -> None:
    nrrd.write(str(path), np.zeros((3, 4, 5), np.uint8))


def label_map_without_table(path: Path) -> None:
    write_volume(path, Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)))


def label_map_with_another_table(path: Path) -> None:
    label_map_without_table(path)
    path.with_name("labels.labels.csv").write_text("number,organ\n1,liver\n")


def label_map_with_named_labels(path: Path) -> None:
    label_map_without_table(path)
    path.with_name("labels.labels.csv").write_text("label,task,structure\none,liver,liver\n")


def folder_without_masks(path: Path) -> None:
    path.mkdir()


def folder_on_two_grids(path: Path) -> None:
    path.mkdir()
    write_volume(path / "liver.nii.gz", Volume(LIVER, np.eye(4)))
    write_volume(path / "spleen.nii.gz", Volume(LIVER, np.diag((2.0, 1, 1, 1))))


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("missing.seg.nrrd", lambda path: None, "There is no such file"),
        ("text.seg.nrrd", text_file, "truncated or damaged"),
        ("bytes.seg.nrrd", nrrd_with_a_field_that_is_no_utf8, "truncated or damaged"),
        ("plain.seg.nrrd", plain_nrrd, "holds no segments"),
        ("missing.nii.gz", lambda path: None, "no such file"),
        ("labels.nii.gz", label_map_without_table, "needs its NAME.labels.csv"),
        ("labels.nii.gz", label_map_with_another_table, "needs the columns label, task and structure"),
        ("labels.nii.gz", label_map_with_named_labels, "'one' is no label"),
        ("empty", folder_without_masks, "holds no masks"),
        ("grids", folder_on_two_grids, "spleen.nii.gz: The mask lies on another grid"),
    ],
)
def test_a_file_without_segmentation_is_refused_with_its_sentence(tmp_path, name, make, sentence):
    make(tmp_path / name)
    with pytest.raises(InputError, match=sentence):
        read_segmentation(tmp_path / name)


def test_labels_whose_header_scales_them_are_whole_numbers_again(tmp_path):
    labels = np.zeros((4, 5, 6), np.int16)
    labels[1:3], labels[2, 2:4] = 1, 2
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    nibabel.save(nibabel.Nifti1Image(labels.astype(float), np.eye(4), header), tmp_path / "a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "spleen": 2}}))
    found = read_segmentation(tmp_path / "a.nii.gz")
    assert np.array_equal(found["liver"], (labels == 1).T)
    assert np.array_equal(found["spleen"], (labels == 2).T)


@pytest.mark.parametrize(
    "array",
    [
        np.where(LIVER, 0.6, 0.0).astype(np.float32),
        LIVER * np.int16(-1),
    ],
    ids=["probabilities", "below 0"],
)
def test_probabilities_and_negative_values_are_no_mask(tmp_path, array):
    write_volume(tmp_path / "liver.nii.gz", Volume(array, np.eye(4)))
    with pytest.raises(InputError, match=r"A mask holds 0 and 1 \(or 255\) only"):
        read_segmentation(tmp_path / "liver.nii.gz")


def test_a_label_beyond_16_bits_is_not_taken_for_a_small_one(tmp_path):
    write_volume(tmp_path / "map.nii.gz", Volume(LIVER * np.float32(65537), np.eye(4)))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"liver": 1}}))
    assert not read_segmentation(tmp_path / "map.nii.gz")["liver"].any()


@pytest.mark.parametrize("name", ["ignore", "Ignore"])
def test_the_label_to_be_ignored_may_have_a_capital(tmp_path, name):
    write_volume(tmp_path / "map.nii.gz", Volume(LIVER * np.int16(2), np.eye(4)))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"liver": 1, name: 2}}))
    segmentation = read_segmentation(tmp_path / "map.nii.gz")
    assert segmentation.keys() == [("", "liver")]
    assert np.array_equal(segmentation.ignored.filled(LIVER.shape), LIVER)


def test_several_rows_of_a_table_may_name_one_structure(tmp_path):
    write_volume(tmp_path / "map.nii.gz", Volume(LIVER * 1 + ~LIVER * 2, np.eye(4)))
    (tmp_path / "map.labels.csv").write_text("label,task,structure\n1,,lung\n2,,lung\n")
    assert read_segmentation(tmp_path / "map.nii.gz")["lung"].all()


def test_an_image_of_the_other_suffix_without_a_table_is_in_nobodys_way(tmp_path):
    segmentation = Segmentation(LIVER.shape, np.eye(4))
    segmentation.add("liver", "liver", None, LIVER)
    write_volume(tmp_path / "x.nii", Volume(LIVER, np.eye(4)))
    write_segmentation(tmp_path / "x.nii.gz", segmentation)
    assert np.array_equal(read_segmentation(tmp_path / "x.nii.gz")["liver"], LIVER)


def test_a_layer_just_beyond_the_last_is_refused(tmp_path):
    two_segments(tmp_path / "bad.seg.nrrd", {}, {"Layer": "2"})
    with pytest.raises(InputError, match="spleen should be in layer 2, but the layers are 0 to 1"):
        read_segmentation(tmp_path / "bad.seg.nrrd")


def test_the_tenth_layer_of_an_old_file_comes_after_the_second(tmp_path):
    layers = np.zeros((11, 5, 4, 3), np.uint8)
    for number in range(11):
        layers[number].flat[number] = 1
    fields = {f"Segment{number}_{name}": f"s{number}" for number in range(11) for name in ("ID", "Name")}
    directions = [[np.nan] * 3, *np.eye(3).tolist()]
    kinds = ["list", "domain", "domain", "domain"]
    header = {"space": "left-posterior-superior", "space directions": directions, "kinds": kinds}
    nrrd.write(str(tmp_path / "old.seg.nrrd"), layers, header | fields)
    segmentation = read_segmentation(tmp_path / "old.seg.nrrd")
    for number in range(11):
        assert np.array_equal(segmentation[f"s{number}"], layers[number].T)


def test_provenance_that_is_no_record_is_passed_over(tmp_path):
    odd, good = ({"Tags": f"PartialSeg.Provenance:{text}|"} for text in ("[1]", '{"model": "tiny"}'))
    two_segments(tmp_path / "odd.seg.nrrd", odd, good)
    assert read_segmentation(tmp_path / "odd.seg.nrrd").provenance == {"model": "tiny"}
