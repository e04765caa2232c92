"""Files of any kind: written whole or not at all, named so that every system takes them, read strictly."""
