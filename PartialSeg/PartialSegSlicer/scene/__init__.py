"""Between the MRML scene and the library: volumes out, segments, tags and tables in."""
