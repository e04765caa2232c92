"""Collections: cases of several data sets on disk, each labelled for structures of its own."""

from .collection import Case, Collection, DataSet, read_collection, tasks_of, write_collection

__all__ = ["Case", "Collection", "DataSet", "read_collection", "tasks_of", "write_collection"]
