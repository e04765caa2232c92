"""From the input grid to the network's, and from its scores to masks on the input grid."""
