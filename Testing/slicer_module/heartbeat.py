"""How long the GUI thread is held up while a real prediction runs.

Called as `python Testing/slicer_module/heartbeat.py [CT]`.

A timer beats every 5 ms; the longest pauses between beats are printed, with the panel's calls that took them.
Surfaces are left out: Slicer makes them. Figures differ between machines; nothing is asserted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pythonqt
import slicer
import slicer_scene

from PartialSegLib import read_volume
from PartialSegLib.phantom import make_phantom

BEAT_MILLISECONDS = 5
SHOWN = 8


def main() -> int:
    """Segment all tasks from the panel and print the longest pauses."""
    slicer_scene.boot()
    import PartialSeg

    volume = read_volume(sys.argv[1]) if len(sys.argv) > 1 else make_phantom(1).volume
    with pythonqt.panel_windows():
        parent = pythonqt.module_parent()
        widget = PartialSeg.PartialSegWidget(parent)
        widget.setup()
        parent.show()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        slicer.util.updateVolumeFromArray(node, volume.array)
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.affine[:, [2, 1, 0, 3]]))
        pythonqt.choose(widget.ui.inputSelector, "CT")
        widget.ui.show3DCheckBox.checked = False
        pythonqt.click(widget.ui.allButton)
        calls: list[tuple[float, str]] = []
        panel = widget.panel
        panel.poll = _timed(panel.poll, "poll", calls)
        panel._timer.timeout.disconnect()
        panel._timer.timeout.connect(panel.poll)
        beats = [time.perf_counter()]
        heart = pythonqt.qt.QTimer()
        heart.setInterval(BEAT_MILLISECONDS)
        heart.timeout.connect(lambda: beats.append(time.perf_counter()))
        heart.start()
        start = time.perf_counter()
        widget.ui.applyButton.click()
        calls.append((time.perf_counter() - start, "click"))
        pythonqt.wait_until(lambda: not panel.segmenter.isBusy, 600)
        pauses = sorted((b - a for a, b in pairwise(beats)), reverse=True)
        sys.stdout.write(f"{volume.shape} voxels, {len(beats)} beats, {widget.ui.statusLabel.text}\n")
        sys.stdout.write("longest pauses, ms: " + ", ".join(f"{1000 * p:.0f}" for p in pauses[:SHOWN]) + "\n")
        longest = sorted(calls, reverse=True)[:SHOWN]
        sys.stdout.write(
            "longest calls, ms: " + ", ".join(f"{name} {1000 * s:.0f}" for s, name in longest) + "\n"
        )
        widget.cleanup()
    return 0


def _timed(function: Callable[[], Any], name: str, calls: list[tuple[float, str]]) -> Callable[[], Any]:
    def call() -> None:
        start = time.perf_counter()
        function()
        calls.append((time.perf_counter() - start, name))

    return call


if __name__ == "__main__":
    sys.exit(main())
