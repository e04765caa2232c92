"""Image files and where their voxels lie: NIfTI, NRRD, MetaImage and DICOM, and affines to RAS mm."""
