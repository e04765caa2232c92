"""Segmentations in files: .seg.nrrd, label maps with their tables, folders of masks."""
