"""Archives that nnUNetv2_export_model_to_zip writes: one model is unpacked, read, and removed again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..errors import InputError
from ..packages.archive import Archive
from ..packages.nnunet_files import (
    MODEL_ARCHIVE,
    Choice,
    checkpoints_in_folder,
    chosen_checkpoints,
    postprocessing_files,
)

DESCRIPTIONS = ("plans.json", "dataset.json")


@contextmanager
def found_checkpoints(path: Path, choice: Choice) -> Iterator[tuple[Path, ...]]:
    """Give the checkpoints of a model: a file, or those chosen of a folder or a .zip.

    What is unpacked lies in a temporary folder and is removed in the end, whatever happens. Messages of
    `InputError` that name a file in it name the archive instead.

    Raises:
        InputError: there are none, not those that are asked for, or the archive is damaged or means harm.
    """
    if path.is_dir():
        yield checkpoints_in_folder(path, choice)
    elif path.suffix.lower() == ".zip" and path.is_file():
        with tempfile.TemporaryDirectory(prefix="partialseg-", ignore_cleanup_errors=True) as folder:
            try:
                yield _unpack(path, choice, Path(folder))
            except InputError as error:
                raise InputError(str(error).replace(folder, str(path))) from None
    elif choice.is_made:
        raise InputError(f"{path} is a single checkpoint; give nnU-Net's folder or .zip to choose from.")
    else:
        yield (path,)


def _unpack(path: Path, choice: Choice, folder: Path) -> tuple[Path, ...]:
    """Write the chosen checkpoints and what describes them; nothing else comes out of the archive."""
    with Archive(path, MODEL_ARCHIVE) as archive:
        checkpoints = chosen_checkpoints(path, archive.files, choice)
        model = PurePosixPath(checkpoints[0]).parent.parent
        beside = {str(model / name) for name in DESCRIPTIONS}
        beside.update(map(str, postprocessing_files([PurePosixPath(name) for name in checkpoints])))
        wanted = [*checkpoints, *sorted(beside.intersection(archive.files))]
        archive.check_sizes(wanted)
        try:
            for name in wanted:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with (folder / name).open("xb") as file:
                    for chunk in archive.read(name, MODEL_ARCHIVE.max_bytes):
                        file.write(chunk)
        except OSError as error:
            raise InputError(
                f"{path} cannot be unpacked in {folder.parent} ({error.strerror or error}); free some space, "
                "or set TMPDIR to another folder."
            ) from None
    return tuple(folder / name for name in checkpoints)
