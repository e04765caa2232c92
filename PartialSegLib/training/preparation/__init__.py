"""Preparation: cases as the network sees them, once, on disk."""
