"""What a package says of its decision network: how it sees slices, and which of them it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .files.json_fields import require

SMALLEST_INPUT = 32  # pixels; the decision network halves its input five times


@dataclass(frozen=True)
class DecisionSpec:
    """The field `decision` of a manifest; the weights are in `decision.safetensors`.

    Slices are axial ones of the network's grid. Each is seen with its neighbours as channels, averaged down
    to a square, and gets a score in (0, 1) for each task of the model: the probability that the task has
    anything there.

    Attributes:
        offsets: of the channels from the judged slice, in slices of the network's grid along its axial axis;
            beyond the image its outermost slice is repeated.
        thresholds: for each task, in the order of the manifest; a slice is kept when its score is at least
            this.
        architecture: class of the decision network.
        arguments: further keyword arguments of its constructor, such as its widths.
        input_size: height and width of the averaged slices in pixels.
        every: 1 judges every slice, 2 every second one, and so on; a slice between two that are judged gets
            the higher score of these.
        dilation: how many slices on either side of a kept one are kept too.
        automatic: whether the selection "auto" asks the network; if not, only "exact" and "fast" do. For
            models whose patches are so tall that leaving out slices alone saves hardly any.
        figures: free record of how it was trained and what it reached.
    """

    offsets: tuple[int, ...]
    thresholds: tuple[float, ...]
    architecture: Literal["DecisionNetwork"] = "DecisionNetwork"
    arguments: dict[str, Any] = field(default_factory=dict)
    input_size: int = 64
    every: int = 1
    dilation: int = 1
    automatic: bool = True
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that no package can mean."""
        require(
            0 in self.offsets and len(set(self.offsets)) == len(self.offsets),
            f"offsets: expected different numbers of slices, 0 among them, got {list(self.offsets)}",
        )
        for threshold in self.thresholds:
            require(0 <= threshold <= 1, f"thresholds: expected scores from 0 to 1, got {threshold}")
        require(
            self.input_size >= SMALLEST_INPUT,
            f"input_size: expected {SMALLEST_INPUT} pixels or more, got {self.input_size}",
        )
        require(self.every >= 1, f"every: expected slices from 1 on, got {self.every}")
        require(self.dilation >= 0, f"dilation: expected slices from 0 on, got {self.dilation}")
