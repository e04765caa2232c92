"""Data sets on disk become collections: one file for each layout, and the collections of two papers."""

from .mots import MOTS
from .multitalent import MULTITALENT
from .recipe import LAYOUTS

__all__ = ["LAYOUTS", "MOTS", "MULTITALENT"]
