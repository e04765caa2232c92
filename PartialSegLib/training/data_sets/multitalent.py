"""MultiTalent's collection: 13 data sets with 47 classes, all of whose labelled cases are trained on.

Ulrich et al.: MultiTalent: A Multi-Dataset Approach to Medical Image Segmentation, MICCAI 2023, Table 3. That
table adds up to 1460 cases; the text says 1477, and the plans of the two published networks say 1469 and
1470. The paper validates by five folds (`splits.with_validation_fold`). Folder names are those that the
official code asks for, nnU-Net raw data of version 1, and those of the downloads where a layout is known.
"""

from __future__ import annotations

from .protocols import PROTOCOLS
from .recipe import RecipePart


def _part(name: str, cases: int, *places: tuple[str, str]) -> RecipePart:
    return RecipePart(PROTOCOLS[name], places, cases)


def _decathlon(name: str, number: int, folder: str, cases: int) -> RecipePart:
    places = ((f"task{number:02}_{folder}", "decathlon"), (f"task{number:03}_{folder}", "nnunet"))
    return _part(f"msd-{name}", cases, *places)


MULTITALENT = (
    _decathlon("liver", 3, "liver", 131),
    _decathlon("lung", 6, "lung", 63),
    _decathlon("pancreas", 7, "pancreas", 281),
    _decathlon("hepatic-vessel", 8, "hepaticvessel", 303),
    _decathlon("spleen", 9, "spleen", 41),
    _decathlon("colon", 10, "colon", 126),
    _part(
        "btcv", 30, ("task017_abdominalorgansegmentation", "nnunet"), ("abdomen", "btcv"), ("btcv", "btcv")
    ),
    _part("btcv2", 73, ("task046_abdorgsegm2", "nnunet")),
    _part(
        "structseg",
        50,
        ("task051_structseg2019_task3_thoracic_oar", "nnunet"),
        ("thoracic_oar", "structseg"),
    ),
    _part("segthor", 40, ("task055_segthor", "nnunet"), ("segthor", "segthor")),
    _part("nih-pancreas", 82, ("task062_nihpancreas", "nnunet")),
    _part("kits19", 210, ("task064_kits*", "nnunet"), ("kits19*", "kits"), ("kits", "kits")),
    _part(
        "btcv-pelvis",
        30,
        ("task018_pelvicorgansegmentation", "nnunet"),
        ("cervix", "btcv-pelvis"),
        ("btcv", "btcv-pelvis"),
    ),
)
"""In the order of the tasks in MultiTalent's packages."""
