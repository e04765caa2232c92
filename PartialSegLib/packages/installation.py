"""Installing and deleting model packages: from a folder or a .zip, complete and checked, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InputError
from ..files.file_names import expanded
from ..files.output_files import locked, remove_leftovers, replace_patiently
from ..manifest import MANIFEST_FILE, Manifest, parse_manifest, read_manifest
from ..sentences import suggestion
from .installed import BUNDLED_MODELS, MODEL_DIR_VARIABLE, manifests_in, model_folders
from .package_files import check_contents, refuse_to_overwrite
from .sources import PackageArchive, PackageFolder

__all__ = ["AlreadyInstalledError", "Progress", "delete_package", "install_package"]

MAX_MANIFEST_BYTES = 4 << 20
_PARTIAL = ".partial-"
_LOCK_FILE = ".packages.lock"
_REPLACED = "replaced"
"""In a working folder: what `old` holds has been replaced and is not put back."""
_STALE_SECONDS = 6 * 3600  # whoever installs writes all the time, perhaps on another computer

Package = PackageArchive | PackageFolder


class AlreadyInstalledError(InputError):
    """A package of that name is there; it may be replaced."""


Progress = Callable[[int, int], object]
"""Called with the bytes done and the bytes in total; may raise `Cancelled`."""


def ignore_progress(done: int, total: int) -> None:
    """Report nothing."""


def install_package(
    source: str | Path,
    folder: str | Path | None = None,
    replace: bool = False,
    on_progress: Progress = ignore_progress,
) -> Path:
    """Copy a package among the installed ones, under its own name; it appears only when complete and checked.

    Only `model.json` and the files it names are taken, each with the size and SHA-256 it states. What an
    installation that was killed has left is tidied up first.

    Args:
        source: a package folder, or a .zip of one.
        folder: where to install; None takes the user's model folder (the first of `model_folders`).
        replace: take the place of an installed package of the same name.
        on_progress: called with bytes done and in total; when it raises `Cancelled`, nothing is installed.

    Returns:
        The folder of the installed package.

    Raises:
        AlreadyInstalledError: a package of its name is installed already.
        InputError: the source is no sound package, or the folder cannot be written to; what was installed
            before is still there.
    """
    place = _place(folder)
    with contextlib.closing(_opened(expanded(source))) as package:
        contents = _read_manifest_bytes(package)
        manifest = parse_manifest(contents, package.place / MANIFEST_FILE)
        with _explained(f"Cannot install {manifest.name} in {place}"):
            with _alone(place):
                _tidy_up(place)
                _target(place, manifest, replace)
            with _working_folder(place) as work:
                new = work / "new"
                new.mkdir()
                (new / MANIFEST_FILE).write_bytes(contents)
                _copy_files(package, manifest, new, on_progress)
                with _alone(place):  # others may have installed meanwhile
                    target = _target(place, manifest, replace)
                    _swap(new, target, work / "old" / target.name)
    return target


def delete_package(name: str, folder: str | Path | None = None) -> None:
    """Delete an installed package, by its name or, when it is broken, by its folder's name.

    Args:
        name: as listed by `installed_packages`.
        folder: where it is installed; None takes the user's model folder (the first of `model_folders`).

    Raises:
        InputError: no such package there, it is part of PartialSeg, or its folder cannot be removed.
    """
    place = _place(folder)
    with _explained(f"Cannot delete {name} from {place}"):
        packages = _packages_in(place)
        if name not in packages:
            if name in _packages_in(BUNDLED_MODELS):
                raise InputError(f"The model {name} is part of PartialSeg and cannot be deleted.")
            raise InputError(f"There is no model {name!r} in {place}: {suggestion(name, packages)}.")
        package = packages[name]
        _refuse_bundled(package)
        with _working_folder(place) as work, _alone(place):
            _discard(package, work)
            _forget_older(package)


def _place(folder: str | Path | None) -> Path:
    """Where to install and delete: the given folder, or the user's."""
    if folder is not None:
        return expanded(folder)
    *users, _bundled = model_folders()
    if not users:
        raise InputError(
            "There is no home folder in which models could be kept; choose a folder for models, or name one "
            f"in {MODEL_DIR_VARIABLE}."
        )
    return users[0]


def _opened(source: Path) -> Package:
    if source.is_dir():
        return PackageFolder(source)
    if source.is_file():
        return PackageArchive(source)
    raise InputError(f"There is no model package at {source}; give a package folder or a .zip of one.")


def _read_manifest_bytes(package: Package) -> bytes:
    contents = b"".join(package.read(MANIFEST_FILE, MAX_MANIFEST_BYTES))
    if len(contents) > MAX_MANIFEST_BYTES:
        size = f"more than {MAX_MANIFEST_BYTES} bytes"
        raise InputError(f"{package.place / MANIFEST_FILE} has {size}; export the package again.")
    return contents


def _packages_in(folder: Path) -> dict[str, Path]:
    """Folder of each package by its name, and of the broken ones by the name of the folder."""
    packages: dict[str, Path] = {}
    broken: dict[str, Path] = {}
    for path in manifests_in(folder):
        try:
            packages.setdefault(read_manifest(path.parent).name, path.parent)
        except InputError:
            broken[path.parent.name] = path.parent
    return {**broken, **packages}


def _target(place: Path, manifest: Manifest, replace: bool) -> Path:
    """Where the package shall lie: in the place of the one it replaces, or under its name."""
    target = _packages_in(place).get(manifest.name, place / manifest.name)
    bundled = _packages_in(BUNDLED_MODELS).get(manifest.name)
    existing = target if (target / MANIFEST_FILE).exists() else bundled
    if existing and not replace:
        raise AlreadyInstalledError(
            f"The model {manifest.name} is installed already, in {existing}; "
            "choose to replace it, or delete it first."
        )
    refuse_to_overwrite(target)
    _refuse_bundled(target)
    return target


def _refuse_bundled(package: Path) -> None:
    if package.resolve().parent == BUNDLED_MODELS.resolve():
        raise InputError(f"{package} is part of PartialSeg and is not changed; choose another model folder.")


@contextlib.contextmanager
def _explained(failure: str) -> Iterator[None]:
    """Tell in one sentence what a file system refuses."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{failure}: {reason}; check its permissions and free space, and close programs that use it."
        ) from error


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Let one process at a time look at what is there and change it; that takes a blink of an eye."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(place / _LOCK_FILE))
        except InputError as error:
            raise error.__cause__ or error from None
        yield


@contextlib.contextmanager
def _working_folder(place: Path) -> Iterator[Path]:
    """A hidden folder beside the packages, one level too deep to be taken for one; removed in the end.

    In it `new` is being written, `old` holds whole packages under the names of their folders, and `discarded`
    is being removed. A file `replaced` says that what `old` holds is not to be put back.
    """
    place.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=place))
    try:
        yield work
    finally:
        _remove_working_folder(work)


def _remove_working_folder(work: Path) -> None:
    for name in ("new", "discarded"):
        shutil.rmtree(work / name, ignore_errors=True)
    with contextlib.suppress(OSError):  # an old package that could not be put back is kept
        if (work / "old").exists():
            (work / "old").rmdir()
        (work / _REPLACED).unlink(missing_ok=True)
        work.rmdir()


def _tidy_up(place: Path) -> None:
    """Put back what a killed replacement has set aside, and remove what was left long ago."""
    remove_leftovers(place)  # of imports
    for work in place.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(OSError):  # another process was quicker
            is_replaced = (work / _REPLACED).exists()
            for old in (work / "old").glob("*"):
                if not is_replaced and not (place / old.name).exists():
                    replace_patiently(old, place / old.name)
            newest = max(path.lstat().st_mtime for path in (work, *work.rglob("*")))
            if time.time() - newest > _STALE_SECONDS:
                for old in (work / "old").glob("*"):
                    if is_replaced or (place / old.name / MANIFEST_FILE).exists():
                        _discard(old, work)
                _remove_working_folder(work)


def _discard(package: Path, work: Path) -> None:
    """Remove a package, after taking it out of sight whole; of a link, only the link."""
    discarded = work / "discarded"
    replace_patiently(package, discarded)
    if discarded.is_symlink():
        discarded.unlink()
    shutil.rmtree(discarded, ignore_errors=True)


def _copy_files(package: Package, manifest: Manifest, new: Path, on_progress: Progress) -> None:
    """Copy the manifest's files; size and SHA-256 are those of what is written, never more than announced."""
    total = sum(entry.bytes for entry in manifest.files.values())
    done = 0
    for name, entry in manifest.files.items():
        digest, size = hashlib.sha256(), 0
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        with (new / name).open("xb") as file:
            for chunk in package.read(name, entry.bytes):
                size += len(chunk)
                if size > entry.bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
                on_progress(done + size, total)
        check_contents(package.place / name, entry, size, digest.hexdigest())
        done += entry.bytes


def _swap(new: Path, target: Path, old: Path) -> None:
    """Put `new` in the place of `target`, or leave `target` as it was."""
    if not target.exists():
        replace_patiently(new, target)
        return
    old.parent.mkdir()
    replace_patiently(target, old)
    try:
        replace_patiently(new, target)
    except BaseException:
        _put_back(old, target)
        raise
    _forget(old)


def _forget(old: Path) -> None:
    """Remove a package that has been replaced; one in use somewhere is removed by a later installation."""
    work = old.parent.parent
    (work / _REPLACED).touch()
    with contextlib.suppress(OSError):
        _discard(old, work)


def _forget_older(package: Path) -> None:
    """Do the same with older versions of a package that is deleted, which would else be put back."""
    for old in package.parent.glob(f"{_PARTIAL}*/old/{package.name}"):
        with contextlib.suppress(OSError):
            _forget(old)


def _put_back(old: Path, target: Path) -> None:
    try:
        replace_patiently(old, target)
    except OSError as error:
        raise InputError(
            f"{target} could be neither replaced nor put back ({error.strerror or error}); close "
            f"programs that use it and install any model: the old one, kept in {old}, is then put back."
        ) from error
