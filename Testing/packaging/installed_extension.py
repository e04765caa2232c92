"""Builds and installs the extension as Slicer's factory does, against a stub of the Slicer package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).resolve().parent / "slicer_package_stub"
MODULES_FOLDER = Path("lib", "Slicer-5.12", "qt-scripted-modules")
NEEDED = (3, 28)  # the version that Slicer 5.12's own template asks for


def find_cmake() -> str:
    """A CMake that is new enough; tests that need it are skipped where there is none."""
    for folder in (sysconfig.get_path("scripts"), None):
        program = shutil.which("cmake", path=folder)
        if program and _version(program) >= NEEDED:
            return program
    pytest.skip("there is no CMake 3.28 or newer; pip install cmake")


def _version(program: str) -> tuple[int, ...]:
    output = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+)\.(\d+)", output)
    return tuple(map(int, found.groups())) if found else ()


def run_cmake(*arguments: str | Path) -> str:
    """What CMake says; a failure of CMake fails the test with its output."""
    command = [find_cmake(), *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, errors="replace", env=_environment())
    if finished.returncode:
        pytest.fail(f"{' '.join(command)}\n{finished.stdout}\n{finished.stderr}", pytrace=False)
    return finished.stdout


def _environment() -> dict[str, str]:
    """Without what an outer make or CMake left for its own children."""
    inherited = {"DESTDIR", "MAKEFLAGS", "MAKELEVEL"}
    return {key: value for key, value in os.environ.items() if key not in inherited}


def configure(source: Path, build: Path) -> str:
    """Configure an extension's source folder."""
    return run_cmake("-S", source, "-B", build, f"-DSlicer_DIR={STUB}", "-DCMAKE_BUILD_TYPE=Release")


def install_extension(build: Path, prefix: Path) -> Path:
    """Configure, build and install this extension.

    Returns:
        The folder that Slicer puts on the path of modules.
    """
    configure(ROOT, build)
    run_cmake("--build", build, "--config", "Release", "--parallel", "2")
    run_cmake("--install", build, "--config", "Release", "--prefix", prefix)
    return prefix / MODULES_FOLDER
