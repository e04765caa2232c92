"""How well a segmentation agrees with another one: Dice, surface distances, tables of scores."""

from .scores import (
    Comparison,
    Score,
    dice,
    evaluate,
    hausdorff95,
    normalized_surface_distance,
    write_scores,
)

__all__ = [
    "Comparison",
    "Score",
    "dice",
    "evaluate",
    "hausdorff95",
    "normalized_surface_distance",
    "write_scores",
]
