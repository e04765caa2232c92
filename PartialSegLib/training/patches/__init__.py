"""Patches: which case, where in it, and what is done to it, as the papers do."""
