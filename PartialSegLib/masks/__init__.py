"""Boolean masks as arrays: boxes around them, packed masks, the body, a region of interest."""
