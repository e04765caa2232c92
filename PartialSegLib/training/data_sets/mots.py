"""MOTS, the multi-organ and tumour collection of DoDNet: seven tasks, 920 training and 235 test cases.

Zhang, Xie, Xia, Shen: DoDNet: Learning to segment multi-organ and tumors from multiple partially labeled
datasets, CVPR 2021, Table 2. Images are resampled to 1.5 × 0.8 × 0.8 mm when they are prepared for training.
The paper does not say which cases are for test; the official code has lists, which `--list` accepts.
"""

from __future__ import annotations

from .protocols import PROTOCOLS
from .recipe import RecipePart

SPACING_MM = (1.5, 0.8, 0.8)
"""Of the network's grid, (z, y, x)."""


def _decathlon(name: str, number: int, folder: str, training: int, test: int) -> RecipePart:
    places = ((f"task{number:02}_{folder}", "decathlon"), (f"task{number:03}_{folder}", "nnunet"))
    return RecipePart(PROTOCOLS[f"msd-{name}"], places, training, test)


MOTS = (
    RecipePart(
        PROTOCOLS["lits"],
        (
            ("lits*", "lits"),
            ("training*batch*", "lits"),
            ("task03_liver", "decathlon"),
            ("task003_liver", "nnunet"),
            ("task029_lits", "nnunet"),
        ),
        104,
        27,
    ),
    RecipePart(
        PROTOCOLS["kits19"], (("kits19*", "kits"), ("kits", "kits"), ("task064_kits*", "nnunet")), 168, 42
    ),
    _decathlon("hepatic-vessel", 8, "hepaticvessel", 242, 61),
    _decathlon("pancreas", 7, "pancreas", 224, 57),
    _decathlon("colon", 10, "colon", 100, 26),
    _decathlon("lung", 6, "lung", 50, 13),
    _decathlon("spleen", 9, "spleen", 32, 9),
)
"""In the order of DoDNet's tasks."""
