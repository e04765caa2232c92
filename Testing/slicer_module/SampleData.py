"""Stand-in for Slicer's module SampleData: it refuses what the original refuses, and keeps the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_sources: dict[str, list["SampleDataSource"]] = {}


@dataclass
class SampleDataSource:
    """Stand-in: one URL as text makes a list of everything else; all lists must then be equally long.

    Without a URL the original takes the file names as they are and fails: it walks over None.
    """

    sampleName: str | None
    uris: str | Sequence[str] | None
    fileNames: str | Sequence[str] | None
    nodeNames: str | Sequence[str] | None
    customDownloader: Callable[["SampleDataSource"], object] | None
    thumbnailFileName: str | None

    def __post_init__(self) -> None:
        if isinstance(self.uris, str):
            self.uris, self.fileNames, self.nodeNames = [self.uris], [self.fileNames], [self.nodeNames]
        for fileName, nodeName in zip(self.fileNames, self.nodeNames, strict=False):
            assert nodeName is not None or fileName.lower()  # it guesses the type from one of them
        if not len(self.uris) == len(self.fileNames) == len(self.nodeNames):
            raise ValueError("All fields of sample data source must have the same length")


class SampleDataLogic:
    """Stand-in: the functions with which modules register their data."""

    @staticmethod
    def sampleDataSourcesByCategory(category: str) -> list[SampleDataSource]:
        return _sources.get(category, [])

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Callable[[SampleDataSource], object] | None = None,
        thumbnailFileName: str | None = None,
    ) -> None:
        source = SampleDataSource(sampleName, uris, fileNames, nodeNames, customDownloader, thumbnailFileName)
        _sources.setdefault(category, []).append(source)
