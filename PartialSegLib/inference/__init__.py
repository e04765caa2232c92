"""The parts of a session: its image, what it looks at, scores, masks, and the memory that it needs."""
