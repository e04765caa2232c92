"""Many images in one run: which ones, what is asked of them, what is done already."""
