"""One picture of a segmentation: cuts through the image, surfaces and a legend."""
