"""Structures: the table is complete and consistent, and its codes read as Slicer's terminology entries."""

import re

import pytest

from PartialSegLib.structures import load_structures, structure_or_tissue, terminology_entry

ORGANS_OF_DODNET = ("liver", "kidney", "hepatic_vessel", "pancreas", "colon", "lung", "spleen")
ORGANS_OF_FLARE = (
    *("liver", "right_kidney", "spleen", "pancreas", "aorta", "inferior_vena_cava", "right_adrenal_gland"),
    *("left_adrenal_gland", "gallbladder", "esophagus", "stomach", "duodenum", "left_kidney"),
)
ORGANS_OF_MULTITALENT = (
    *(
        "portal_vein_and_splenic_vein",
        "left_lung",
        "right_lung",
        "heart",
        "trachea",
        "bronchus",
        "small_bowel",
    ),
    *("spinal_cord", "rectum", "urinary_bladder", "uterus"),
)
TUMORS = ("liver_tumor", "kidney_tumor", "pancreas_tumor", "colon_tumor", "lung_tumor")


@pytest.mark.parametrize("id", sorted({*ORGANS_OF_DODNET, *ORGANS_OF_FLARE, *ORGANS_OF_MULTITALENT, *TUMORS}))
def test_every_structure_of_the_supported_models_is_known(id):
    assert load_structures()[id].id == id


@pytest.mark.parametrize("structure", load_structures().values(), ids=load_structures())
def test_the_table_is_consistent(structure):
    assert structure.name == structure.id.replace("_", " ")
    assert all(0 <= channel <= 255 for channel in structure.color)
    codes = (structure.category, structure.type, structure.type_modifier, structure.region)
    for code in codes:
        assert code is None or (code.scheme == "SCT" and code.value.isdigit() and code.meaning)
    side = structure.id.partition("_")[0].capitalize()
    assert (structure.type_modifier is not None) == (side in ("Left", "Right"))
    assert structure.type_modifier is None or structure.type_modifier.meaning == side
    assert structure.is_lesion == structure.id.endswith("tumor")
    if structure.is_lesion and structure.id != "tumor":  # which is one of any organ
        organ = load_structures()[structure.id.removesuffix("_tumor")]
        assert structure.region == organ.type


def test_no_two_structures_look_or_mean_the_same():
    structures = load_structures().values()
    assert len({structure.color for structure in structures}) == len(structures)
    assert len({terminology_entry(structure) for structure in structures}) == len(structures)


@pytest.mark.parametrize(
    ("id", "entry"),
    [
        (
            "liver",
            "Segmentation category and type - 3D Slicer General Anatomy list"
            "~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^"
            "~Anatomic codes - DICOM master list~^^~^^",
        ),
        (
            "left_kidney",
            "Segmentation category and type - 3D Slicer General Anatomy list"
            "~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left"
            "~Anatomic codes - DICOM master list~^^~^^",
        ),
        (
            "liver_tumor",
            "Segmentation category and type - 3D Slicer General Anatomy list"
            "~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^"
            "~Anatomic codes - DICOM master list~SCT^10200004^Liver~^^",
        ),
    ],
)
def test_terminology_entries_are_written_as_slicer_writes_them(id, entry):
    assert terminology_entry(load_structures()[id]) == entry


@pytest.mark.parametrize("structure", load_structures().values(), ids=load_structures())
def test_terminology_entries_have_seven_parts_and_nothing_that_separates_tags(structure):
    entry = terminology_entry(structure)
    assert len(entry.split("~")) == 7
    assert not re.search(r"[|:\n]", entry)


def test_a_structure_from_elsewhere_is_plain_tissue_of_its_name():
    structure = structure_or_tissue("left_ventricle")
    assert (structure.name, structure.type.meaning) == ("left ventricle", "Tissue")
    assert structure_or_tissue("liver") is load_structures()["liver"]
