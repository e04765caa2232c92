"""Med-DANet: training of its bank of 2-D networks and of the network that chooses among them."""
