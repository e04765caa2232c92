"""Model packages on disk: found, checked, read from an archive, installed and described."""
