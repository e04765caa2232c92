"""Parts of networks: blocks, convolutions, normalisations, attention, dynamic head."""
