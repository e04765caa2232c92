"""Names with letters that ITK does not find on Windows; a link stands in for the short name of a folder."""

import ctypes
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dicom_folders import write_series

from PartialSegLib.errors import InputError
from PartialSegLib.images import itk_image
from PartialSegLib.images.itk_image import itk_name
from PartialSegLib.volume import Volume, read_volume, write_volume

pytestmark = pytest.mark.skipif(os.name == "nt", reason="simulates Windows")
VALUES = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A Windows whose process has a code page, and a folder Müller that may have a short name, too."""
    (tmp_path / "Müller").mkdir()
    (tmp_path / "MLLER~1").symlink_to(tmp_path / "Müller")
    system = SimpleNamespace(code_page=1252, has_short_names=True)

    def short_path_name(long: str, short: ctypes.Array[ctypes.c_wchar], size: int) -> int:
        short.value = long.replace("Müller", "MLLER~1") if system.has_short_names else long
        return len(short.value)

    kernel = SimpleNamespace(GetACP=lambda: system.code_page, GetShortPathNameW=short_path_name)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(itk_image.sys, "platform", "win32")
    return system


def test_itk_gets_the_short_name_of_a_folder(windows: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "Müller" / "ct.mha"
    assert itk_name(path) == str(tmp_path / "MLLER~1" / "ct.mha")
    assert itk_name(path.parent) == str(tmp_path / "MLLER~1")
    assert itk_name(tmp_path / "ct.mha") == str(tmp_path / "ct.mha")
    write_volume(path, Volume(VALUES, np.eye(4)))
    assert np.array_equal(read_volume(path).array, VALUES)
    windows.code_page = 65001  # as in the application of Slicer
    assert itk_name(path) == str(path)


@pytest.mark.parametrize("name", ["Müller/ct.mha", "Schädel.mha"])
def test_a_name_that_itk_would_not_find_is_one_sentence(
    windows: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    windows.has_short_names = False
    (tmp_path / name).write_text("NDims = 3\n")
    with pytest.raises(InputError, match=f"{name}: On Windows, names with letters such as ä or é are hidden"):
        read_volume(tmp_path / name)
    with pytest.raises(InputError, match="On Windows, names with letters"):
        write_volume(tmp_path / name, Volume(VALUES, np.eye(4)))
    write_volume(tmp_path / "Müller" / "Schädel.nii.gz", Volume(VALUES, np.eye(4)))  # without ITK
    read_volume(tmp_path / "Müller" / "Schädel.nii.gz")


def test_a_series_is_found_beside_a_file_with_such_a_name(windows: SimpleNamespace, tmp_path: Path) -> None:
    write_series(tmp_path / "Müller")
    (tmp_path / "Müller" / "Befund Schädel.txt").touch()
    assert read_volume(tmp_path / "Müller").array.ndim == 3
