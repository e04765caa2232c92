"""What the commands of `python -m PartialSegLib` do; the arguments they take stand in `__main__`."""
