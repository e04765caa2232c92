"""Training of the decision network that tells a 3-D model which slices a task needs."""
