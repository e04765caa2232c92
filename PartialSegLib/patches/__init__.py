"""Patches of an image: where they lie, which are visited, what is kept of them, how they are blended."""
