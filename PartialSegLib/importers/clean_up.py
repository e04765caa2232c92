"""The clean-up of MOTS that the official DoDNet and TransDoDNet share; they count neighbours differently."""

from __future__ import annotations

from ..manifest import PostprocessingStep
from ..task import Connectivity


def keep_largest(structure: str, count: int, connectivity: Connectivity) -> PostprocessingStep:
    """Keep the largest components of a structure."""
    return PostprocessingStep("keep_largest", structure, count=count, connectivity=connectivity)


def tumor_in_organ(
    organ: str, tumor: str, organs: int, connectivity: Connectivity
) -> tuple[PostprocessingStep, ...]:
    """The organ includes its tumour and keeps its largest components; the tumour stays inside them."""
    return (
        PostprocessingStep("include", organ, other=tumor),
        keep_largest(organ, organs, connectivity),
        PostprocessingStep("mask_by", tumor, other=organ),
    )
