"""Pseudo-labels: a model labels what the cases of a collection are not labelled for (FLARE23's entry)."""
