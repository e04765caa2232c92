"""How well a segmentation agrees with another one: Dice, surface distances, tables of scores."""

from .comparison import Comparison, evaluate
from .metrics import dice, hausdorff95, normalized_surface_distance
from .scores import Score, write_scores

__all__ = [
    "Comparison",
    "Score",
    "dice",
    "evaluate",
    "hausdorff95",
    "normalized_surface_distance",
    "write_scores",
]
