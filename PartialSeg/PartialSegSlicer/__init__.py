"""The parts of the PartialSeg module that know Slicer; they never import torch."""
