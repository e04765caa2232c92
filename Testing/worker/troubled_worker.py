"""The worker in trouble: `python troubled_worker.py TROUBLES --scratch FOLDER`.

Files in the folder TROUBLES say what happens whenever a patch is encoded: `slow` (takes the seconds in the
file), `noisy` (prints), `broken` (an error nobody expects, of the text in the file), `full` (the error named
in the file, on the devices named behind it; with `0` after a name, on this device even when no features are
kept). With `slow disk` a file takes the seconds in it to reach the disk. A device cuda seems to be there;
`sessions` lists device and cache_bytes of the sessions made.
"""

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from PartialSegLib.files import output_files
from PartialSegLib.model import Model
from PartialSegLib.session import InferenceSession
from PartialSegLib.worker import __main__ as worker
from PartialSegLib.worker import warm_session

TROUBLES = Path(sys.argv.pop(1))


def choose_device(name: str) -> torch.device:
    return torch.device("cpu" if name == "cuda" else name)


class TroubledSession(InferenceSession):
    def __init__(self, model: Model, device: str, cache_bytes: int, **options: Any) -> None:
        super().__init__(model, device.replace("cuda", "cpu"), cache_bytes, **options)
        with (TROUBLES / "sessions").open("a") as file:
            file.write(f"{device} {cache_bytes}\n")
        self._names = {device, f"{device}0"} if cache_bytes else {f"{device}0"}
        self._encode = self._runner.encode
        self._runner.encode = self._encode_in_trouble  # type: ignore[method-assign]

    def _encode_in_trouble(self, patch: torch.Tensor) -> Any:
        if (TROUBLES / "slow").exists():
            time.sleep(float((TROUBLES / "slow").read_text()))
        if (TROUBLES / "noisy").exists():
            make_noise()
        if (TROUBLES / "broken").exists():
            raise RuntimeError((TROUBLES / "broken").read_text())
        if (TROUBLES / "full").exists():
            kind, *full = (TROUBLES / "full").read_text().split()
            if self._names & set(full):
                raise getattr(torch, kind, RuntimeError)("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._encode(patch)


def reach_slow_disk(path: Path) -> None:
    if (TROUBLES / "slow disk").exists():
        time.sleep(float((TROUBLES / "slow disk").read_text()))


def make_noise() -> None:
    """What Python code, C code and child processes of libraries may print."""
    print('{"id": 3, "result": "print"}', flush=True)  # noqa: T201 - this is the point
    sys.__stdout__.write("sys.__stdout__\n")
    sys.__stdout__.flush()
    os.write(1, b"os.write\n")
    if os.name == "posix":
        library = ctypes.CDLL(None)
        library.puts(b"C puts")
        library.fflush(None)
        os.system("echo child process; cat")  # cat would read requests away


if __name__ == "__main__":
    output_files._flush = reach_slow_disk
    warm_session.choose_device = choose_device
    warm_session.InferenceSession = TroubledSession
    worker.main()
