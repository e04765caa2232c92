"""Images of several channels: one image whatever the layout, checked, normalised, on one grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import data_set_folders as folders
import numpy as np
import pytest

from PartialSegLib import InputError, read_volume
from PartialSegLib.image_channel import ImageChannel
from PartialSegLib.manifest import Preprocessing, read_manifest
from PartialSegLib.packages.installed import find_package
from PartialSegLib.processing.preprocessing import preprocess
from PartialSegLib.training.collection import (
    Case,
    Collection,
    DataSet,
    read_collection,
    write_collection,
)
from PartialSegLib.training.collection.case_check import check_cases
from PartialSegLib.training.collection.case_images import case_image, image_content, read_channels
from PartialSegLib.training.data_sets import LAYOUTS
from PartialSegLib.training.data_sets.dataset_json import data_set_of, read_dataset_json
from PartialSegLib.training.data_sets.joining import joined
from PartialSegLib.training.data_sets.protocols import PROTOCOLS
from PartialSegLib.training.preparation.prepared_cases import find_case, prepare_collection
from PartialSegLib.training.pseudo_labels.labelling import PseudoLabelling
from PartialSegLib.training.pseudo_labels.plan import PseudoLabelRequest
from PartialSegLib.training.pseudo_labels.reliability import ReliabilityLimits

BRATS = PROTOCOLS["brats"]
ORDER = ("t2", "flair", "t1ce")
MR = Preprocessing(
    "LPS", (1.0, 1.0, 1.0), (-1000, 1000), pad_value=-1000, channels=tuple(map(ImageChannel, ORDER))
)


def collection_of(layout: str, root: Path) -> Collection:
    folder = folders.BRAIN_FOLDERS[layout](root)
    data_set = BRATS if layout == "brats" else data_set_of(folder, read_dataset_json(folder))
    return Collection(layout, root, {data_set.name: data_set}, LAYOUTS[layout](folder, data_set.name))


def prepared(collection: Collection, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels of the first case, prepared."""
    folder = collection.folder / "prepared"
    prepare_collection(collection, preprocessing, folder)
    case = find_case(folder, collection, collection.cases[0])
    whole = (0, 0, 0), case.summary.shape
    return case.read_image(*whole), case.read_labels(*whole)


@pytest.mark.parametrize("layout", folders.BRAIN_FOLDERS)
def test_channels_are_named_and_ordered_alike_whatever_the_layout(layout, tmp_path):
    collection = collection_of(layout, tmp_path)
    (case,) = collection.cases
    assert len(case.images) == (1 if layout == "decathlon" else 4)
    image = case_image(collection, case)
    named = dict(zip(image.channels, image.read(), strict=True))
    for name, channel in folders.brain_channels().items():
        np.testing.assert_array_equal(named[name].array, channel.transpose())
        assert named[name].same_geometry(read_volume(case.label or ""))
    assert check_cases(collection) == []


@pytest.mark.parametrize("layout", folders.BRAIN_FOLDERS)
def test_regions_include_each_other_whatever_the_values(layout, tmp_path):
    collection = collection_of(layout, tmp_path)
    (case,), (data_set,) = collection.cases, collection.data_sets.values()
    labels = read_volume(case.label or "").array.transpose()
    distance = folders.distances(folders.BRAIN_AFFINE)
    radii = {"whole_tumor": 8, "tumor_core": 5, "enhancing_tumor": 3}
    assert data_set.structures.keys() == radii.keys()
    for structure, radius in radii.items():
        found = np.isin(labels, data_set.structures[structure])
        np.testing.assert_array_equal(found, distance < radius)


def test_one_image_in_two_layouts_is_the_same_image(tmp_path):
    contents = set()
    for layout in ("brats", "nnunet"):
        collection = collection_of(layout, tmp_path)
        image = case_image(collection, collection.cases[0])
        named = dict(zip(image.channels, image.read(), strict=True))
        contents.add(image_content([named[name] for name in BRATS.channels]))
    assert len(contents) == 1


def test_paths_of_all_channels_move_with_a_collection(tmp_path):
    collection = collection_of("brats", tmp_path)
    moved = joined("all", [collection], tmp_path)
    write_collection(tmp_path / "c.json", moved)
    assert read_collection(tmp_path / "c.json") == moved
    assert moved.cases[0].other_channels[0] == "BraTS/HGG/Brats18_A_1/Brats18_A_1_t1ce.nii.gz"
    assert check_cases(moved) == []


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ("fewer", "number of channels differs", "3; expected flair, t1ce, t1, t2"),
        ("missing", "image unreadable", "There is no such file"),
        ("moved", "channels on different grids", "flair 14 × 24 × 22 SPL 1 × 1 × 1 mm from"),
        ("cut", "channels on different grids", "t1 13 × 24 × 22 SPL"),
        ("empty", "image empty", "t1: every voxel is 0"),
    ],
)
def test_channels_that_do_not_belong_together_are_found(change, kind, text, tmp_path):
    collection = collection_of("brats", tmp_path)
    (case,) = collection.cases
    path, channel = Path(case.images[2]), folders.brain_channels()["t1"]
    shift = np.outer((1, 0, 0, 0), (0, 0, 0, 0.5))
    match change:
        case "fewer":
            case = replace(case, other_channels=case.other_channels[:2])
        case "missing":
            path.unlink()
        case "moved":
            folders.save(path, channel, folders.BRAIN_AFFINE + shift)
        case "cut":
            folders.save(path, channel[..., :-1], folders.BRAIN_AFFINE)
        case "empty":
            folders.save(path, 0 * channel, folders.BRAIN_AFFINE)
    collection = replace(collection, cases=(case,))
    (fault,) = check_cases(collection)
    assert fault.kind == kind
    assert text in fault.text
    if change in ("fewer", "moved"):
        with pytest.raises(InputError, match=f"{kind} .*; repair the case, or leave it out"):
            prepare_collection(collection, MR, tmp_path / "prepared")


def test_each_channel_is_z_scored_among_the_voxels_that_are_not_0(tmp_path):
    collection = collection_of("brats", tmp_path)
    image, labels = prepared(collection, MR)
    raw = {name: channel.astype(float) for name, channel in folders.brain_channels().items()}
    inside = raw["flair"] != 0
    assert image.shape == (3, *inside.shape)
    for name, channel in zip(ORDER, image, strict=True):
        values = raw[name][inside]
        assert channel[inside].mean() == pytest.approx(0, abs=1e-3)
        assert channel[inside].std() == pytest.approx(1, abs=1e-3)
        assert not channel[~inside].any()
        np.testing.assert_allclose(channel[inside], (values - values.mean()) / values.std(), atol=3e-3)
    np.testing.assert_array_equal(labels, folders.brain_label((2, 1, 4)))


def test_nothing_spills_over_the_border_of_the_brain_by_cubic_resampling(tmp_path):
    collection = collection_of("nnunet", tmp_path)
    image, _ = prepared(
        collection, replace(MR, orientation="SPL", spacing=(1.0, 0.8, 0.8), resampling="cubic")
    )
    distance = folders.distances(folders.BRAIN_AFFINE).transpose()
    corner = image[:, :2, :4, :4]
    assert distance[:2, :4, :4].min() > 13
    assert np.abs(corner).max() < 0.02


def test_channels_in_hu_are_clipped_and_scaled_beside_z_scores(tmp_path):
    channels = (ImageChannel("flair", "HU"), ImageChannel("t2"))
    how = Preprocessing("SPL", (1.0, 1.0, 1.0), (-100, 400), 100.0, 300.0, pad_value=-1000, channels=channels)
    collection = collection_of("brats", tmp_path)
    image, _ = prepared(collection, how)
    alone = preprocess(read_volume(collection.cases[0].image), replace(how, channels=None), "cpu")
    np.testing.assert_allclose(image[0], alone.tensor.numpy(), atol=1e-3)
    assert image[1].mean() == pytest.approx(0, abs=1e-3)
    case = find_case(tmp_path / "prepared", collection, collection.cases[0])
    outside = case.read_image((-2, 0, 0), (2, 3, 3))
    np.testing.assert_allclose(outside[0], alone.background, atol=1e-3)
    assert not outside[1].any()


def test_what_one_channel_is_changed_by_is_prepared_again(tmp_path):
    collection = collection_of("brats", tmp_path)
    before, _ = prepared(collection, MR)
    folders.save(
        Path(collection.cases[0].images[3]), 2000 - folders.brain_channels()["t2"], folders.BRAIN_AFFINE
    )
    after, _ = prepared(collection, MR)
    assert not any(np.array_equal(*pair) for pair in zip(before, after, strict=True))  # nothing is 0 now


def test_a_data_set_without_a_channel_of_the_model_is_refused_before_anything_is_prepared(tmp_path):
    collection = collection_of("brats", tmp_path)
    with pytest.raises(InputError, match=r"data set brats have the channels flair, .*, the model reads CT;"):
        prepare_collection(collection, replace(MR, channels=None), tmp_path / "prepared")
    unknown = replace(MR, channels=(ImageChannel("t2"), ImageChannel("adc")))
    with pytest.raises(InputError, match="the model reads t2, adc; name the channels"):
        prepare_collection(collection, unknown, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_an_image_that_is_0_everywhere_is_refused(tmp_path):
    collection = collection_of("brats", tmp_path)
    for path in collection.cases[0].images:
        folders.save(Path(path), np.zeros(folders.SHAPE, np.int16), folders.BRAIN_AFFINE)
    with pytest.raises(InputError, match="The image is 0 everywhere; leave the case out"):
        prepare_collection(collection, MR, tmp_path / "prepared")


def test_pseudo_labels_are_made_for_ct_and_other_images_keep_their_channels(tmp_path):
    brains = collection_of("brats", tmp_path)
    livers = DataSet("livers", "liver", {"liver": (1,)})
    ct = Case(
        "ct", "livers", str(folders.save(tmp_path / "ct.nii", folders.brain_channels()["t1"], np.eye(4)))
    )
    mixed = replace(brains, data_sets={**brains.data_sets, "livers": livers}, cases=(*brains.cases, ct))
    write_collection(tmp_path / "mixed.json", joined("mixed", [mixed], tmp_path))
    (tmp_path / "out").mkdir()
    manifest = read_manifest(find_package("trunk-7tasks"))
    files = tmp_path / "mixed.json", tmp_path / "out" / "more.json"
    with pytest.raises(InputError, match=r"brats: pseudo-labels are made for CT, .* t1ce, t1, t2; leave"):
        PseudoLabelling(*files, PseudoLabelRequest(manifest, ("liver",)))
    labelling = PseudoLabelling(*files, PseudoLabelRequest(manifest, ("liver",), data_sets=("livers",)))
    kept = labelling.finish(ReliabilityLimits())
    assert [fault.case for fault in check_cases(kept) if fault.data_set == "brats"] == []
    assert kept.cases[0].other_channels[0].startswith("../BraTS/")


def test_only_the_fourth_axis_of_nifti_files_counts_channels(tmp_path):
    four = np.stack([*folders.brain_channels().values()], -1)
    folders.save(tmp_path / "four.nii", four, folders.BRAIN_AFFINE)
    assert len(read_channels(tmp_path / "four.nii")) == 4
    with pytest.raises(InputError, match="4-D with 4 volumes, one is needed"):
        read_volume(tmp_path / "four.nii")
    folders.save(tmp_path / "five.nii", four[..., None].repeat(2, -1), folders.BRAIN_AFFINE)
    with pytest.raises(InputError, match="values per voxel"):
        read_channels(tmp_path / "five.nii")
    folders.save(tmp_path / "one.nrrd", four[..., 0], folders.BRAIN_AFFINE)
    assert len(read_channels(tmp_path / "one.nrrd")) == 1
    (tmp_path / "cut.nii").write_bytes((tmp_path / "four.nii").read_bytes()[:-4])
    with pytest.raises(InputError, match=r"cut\.nii: The file is truncated"):
        read_channels(tmp_path / "cut.nii")
    (tmp_path / "empty.nii").touch()
    for name, sentence in {"empty.nii": "The file is empty", "none.nii": "There is no such file"}.items():
        with pytest.raises(InputError, match=f"{name}: {sentence}"):
            read_channels(tmp_path / name)


def test_a_case_of_nnunet_keeps_the_place_of_a_missing_first_channel(tmp_path):
    folder = folders.nnunet_brain(tmp_path)
    (folder / "imagesTr/BraTS_1_0000.nii.gz").unlink()
    (case,) = LAYOUTS["nnunet"](folder, "brats")
    assert Path(case.image).name == "BraTS_1_0000.nii.gz"
    assert [Path(path).name[-11:-7] for path in case.other_channels] == ["0001", "0002", "0003"]


def test_channels_of_a_data_set_have_names_of_their_own():
    for channels in ((), ("t1", "t1")):
        with pytest.raises(InputError, match="channels: expected at least one, each with a name of its own"):
            replace(BRATS, channels=channels)
    assert Case("a", "b", "c.nii").images == ("c.nii",)
