"""Annotation protocols of public data sets: which value of their label maps means which structure.

Organs include their tumours in LiTS, KiTS19 and the Decathlon's liver and pancreas: two structures share the
tumour's value. The regions of BraTS include each other, too: whole tumour, tumour core, enhancing tumour.
Task names are those of DoDNet's and MultiTalent's packages. Values of the Decathlon are those of its
dataset.json files, values of the other data sets those of their label maps as published; StructSeg, BTCV2 and
the pelvic BTCV have the values of the folders that MultiTalent's official code converts.
"""

from __future__ import annotations

from ..collection import DataSet

DECATHLON = "http://medicaldecathlon.com"
BTCV = "https://www.synapse.org/Synapse:syn3193805"


def _numbered(*structures: str) -> dict[str, tuple[int, ...]]:
    """Structures with the values 1, 2, 3, ..."""
    return {structure: (value,) for value, structure in enumerate(structures, 1)}


def _with_tumor(organ: str) -> dict[str, tuple[int, ...]]:
    """Organ 1, tumour 2; the organ includes the tumour."""
    return {organ: (1, 2), f"{organ}_tumor": (2,)}


def _brain_tumor(edema: int, other_core: int, enhancing: int) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Task and regions of BraTS; `other_core` is the core's part that does not enhance, with necrosis."""
    core = (other_core, enhancing)
    return "brain tumour", {
        "whole_tumor": (edema, *core),
        "tumor_core": core,
        "enhancing_tumor": (enhancing,),
    }


def _decathlon(
    name: str, task: str, structures: dict[str, tuple[int, ...]], channels: tuple[str, ...] = ("CT",)
) -> DataSet:
    return DataSet(name, task, structures, source=DECATHLON, license="CC BY-SA 4.0", channels=channels)


_DATA_SETS = (
    DataSet(
        "lits", "liver", _with_tumor("liver"), source="https://competitions.codalab.org/competitions/17094"
    ),
    DataSet("kits19", "kidney", _with_tumor("kidney"), source="https://github.com/neheller/kits19"),
    _decathlon("msd-liver", "liver", _with_tumor("liver")),
    _decathlon("msd-hepatic-vessel", "hepatic vessel", _numbered("hepatic_vessel", "liver_tumor")),
    _decathlon("msd-pancreas", "pancreas", _with_tumor("pancreas")),
    _decathlon("msd-colon", "colon", _numbered("colon_tumor")),
    _decathlon("msd-lung", "lung", _numbered("lung_tumor")),
    _decathlon("msd-spleen", "spleen", _numbered("spleen")),
    _decathlon(
        "msd-brain-tumour", *_brain_tumor(edema=1, other_core=2, enhancing=3), ("flair", "t1", "t1ce", "t2")
    ),
    DataSet(
        "brats",
        *_brain_tumor(edema=2, other_core=1, enhancing=4),
        source="https://www.med.upenn.edu/cbica/brats2020/data.html",
        channels=("flair", "t1ce", "t1", "t2"),
    ),
    DataSet(
        "btcv",
        "abdomen BTCV",
        _numbered(
            *("spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach"),
            *("aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein", "pancreas"),
            *("right_adrenal_gland", "left_adrenal_gland"),
        ),
        source=BTCV,
    ),
    DataSet(
        "btcv-pelvis",
        "pelvis BTCV",
        _numbered("urinary_bladder", "uterus", "rectum", "small_bowel"),
        source=BTCV,
    ),
    DataSet(
        "btcv2",
        "abdomen BTCV2",
        _numbered(
            *("spleen", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "pancreas"),
            "duodenum",
        ),
        source="https://zenodo.org/records/1169361",
    ),
    DataSet(
        "structseg",
        "thorax StructSeg",
        _numbered("left_lung", "right_lung", "heart", "esophagus", "bronchus", "spinal_cord"),
        source="https://structseg2019.grand-challenge.org",
    ),
    DataSet(
        "segthor",
        "thorax SegTHOR",
        _numbered("esophagus", "heart", "trachea", "aorta"),
        source="https://competitions.codalab.org/competitions/21145",
    ),
    DataSet(
        "nih-pancreas",
        "pancreas NIH",
        _numbered("pancreas"),
        source="https://www.cancerimagingarchive.net/collection/pancreas-ct",
        license="CC BY 3.0",
    ),
)

PROTOCOLS = {data_set.name: data_set for data_set in _DATA_SETS}
"""By name."""
