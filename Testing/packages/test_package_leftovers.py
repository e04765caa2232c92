"""What a killed import leaves beside packages: the next one that is written takes it along, nothing else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_model import TASKS, write_tiny_model

from PartialSegLib.manifest import Preprocessing
from PartialSegLib.packages.installation import install_package


def install(package: Path, models: Path) -> None:
    install_package(package, models, replace=True)


def save(package: Path, models: Path) -> None:
    write_tiny_model(models / "tiny", TASKS, Preprocessing("SAR", (4, 4, 4), (-325, 325), divide=325))


@pytest.fixture
def writers(models: Path) -> Iterator[list[tuple[subprocess.Popen[str], Path]]]:
    """Two processes that write packages, as imports do, and the unfinished folders of both."""
    program = """if True:
        import sys, time
        from PartialSegLib.files.output_files import replacing
        with replacing(sys.argv[1]) as temporary:
            temporary.mkdir()
            (temporary / "weights.safetensors").write_bytes(b"half")
            print(temporary, flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-X", "utf8", "-c", program, str(models / "tiny")]
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(2):
            options: dict[str, Any] = {"stdout": subprocess.PIPE, "encoding": "utf-8"}
            process = stack.enter_context(subprocess.Popen(command, cwd=Path(__file__).parents[2], **options))
            stack.callback(process.kill)
            assert process.stdout is not None
            found.append((process, Path(process.stdout.readline().rstrip("\n"))))
        yield found


@pytest.mark.parametrize("write", [install, save])
def test_what_a_killed_import_left_goes_with_the_next_package_and_nothing_else(
    package: Path,
    models: Path,
    writers: list[tuple[subprocess.Popen[str], Path]],
    write: Callable[[Path, Path], None],
):
    (killed, left), (_, living) = writers
    killed.kill()
    killed.wait()
    others = [models / f".{killed.pid}-{end}" for end in ("0123.partial-a", "01234567.partial-a.old")]
    link = models / f".{killed.pid}-01234567.partial-a"
    for path in (*others, models.parent / "elsewhere"):
        path.mkdir()
    link.symlink_to(models.parent / "elsewhere")
    kept = {*others, link, living, models / "tiny"}
    for path in (left, living, *others, link):
        os.utime(path, times=(0, 0))
    os.utime(living / "weights.safetensors", times=(0, 0))

    write(package, models)  # of the folder left, a file is new: perhaps another computer writes it
    assert set(models.iterdir()) == {left, *kept}

    os.utime(left / "weights.safetensors", times=(0, 0))
    write(package, models)
    assert set(models.iterdir()) == kept
    assert link.exists()
