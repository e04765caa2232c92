"""Array files of the scratch folder."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..protocol import ProtocolError


class ScratchFolder:
    """The folder in which client and worker leave arrays for each other; names come from checked requests.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def map(self, name: str) -> np.ndarray:
        """A .npy file, mapped into memory and read-only.

        Raises:
            ProtocolError: there is no such file, or it is no complete array file.
        """
        try:
            return np.lib.format.open_memmap(self.path / name, mode="r")
        except FileNotFoundError:
            raise ProtocolError(
                f"params.array: there is no file {name} in the scratch folder; write it before the request."
            ) from None
        except (OSError, ValueError, OverflowError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ProtocolError(f"params.array: {name} is no complete .npy file ({reason}).") from None

    def write(self, name: str, array: np.ndarray) -> None:
        """Write a .npy file; nothing is left of it when that fails.

        Raises:
            InputError: the folder is gone, or its disk is full.
        """
        try:
            np.save(self.path / name, array, allow_pickle=False)
        except OSError as error:
            self.remove(name)
            reason = error.strerror or error
            raise InputError(
                f"Cannot write {self.path / name}: {reason}; free some space on this disk and try again."
            ) from error

    def remove(self, name: str) -> None:
        """Remove a file; one that Windows holds on to is left to the client, as the folder is."""
        with contextlib.suppress(OSError):
            (self.path / name).unlink()

    def remove_all(self) -> None:
        """Remove the folder: a client that has crashed leaves a patient's image behind.

        While Windows holds on to an array the rest of the folder stays, too: by the client's mark in it the
        next client knows what it may remove.
        """
        for array in self.path.glob("*.npy"):
            self.remove(array.name)
        if not any(self.path.glob("*.npy")):
            shutil.rmtree(self.path, ignore_errors=True)
