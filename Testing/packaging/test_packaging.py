"""The installed extension: every file, byte for byte, and it works with nothing else on the path."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cmake_lists
import pytest
from installed_extension import ROOT, configure, install_extension

CATALOGUE = ROOT / "Resources" / "PartialSeg.json"
LOGIC_TESTS = ("test_geometry.py", "test_mrml.py", "test_segments_in_files.py", "test_table.py")
SCHEMA = "slicer-extension-catalog-entry-schema-v1.0.1.json#"
FIELDS = {  # of schema v1.0.1: no other is allowed
    "$schema": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "category": str,
    "enabled": bool,
    "scm_revision": str,
    "scm_type": str,
    "scm_url": str,
    "tier": int,
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def installed(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_extension(build, tmp_path_factory.mktemp("installed"))


def metadata(name: str) -> str:
    """A variable of the root CMakeLists.txt, read by the regular expression of the Extensions Index."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    (value,) = re.findall(rf'set\s*\({name}\s*"([^"]+)"\)', text)
    return value


def run_isolated(code: str, *folders: Path) -> str:
    """Run code with these folders first on the path, away from the source."""
    code = f"import sys; sys.path[:0] = {[str(folder) for folder in folders]!r}\n{code}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-I", "-c", code]
    finished = subprocess.run(command, cwd=folders[0], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout.strip()


@pytest.mark.parametrize("module", cmake_lists.MODULES)
def test_every_file_is_listed_once_and_in_order(module: str):
    faults = cmake_lists.faults(module)
    if faults:
        advice = "correct the lists with: python Testing/packaging/cmake_lists.py --write"
        pytest.fail("\n".join([*faults, advice]), pytrace=False)


def test_a_wrong_list_is_answered_with_its_lines():
    wanted = ["a.py", "b.py"]
    assert cmake_lists.differences(wanted, wanted) == []
    assert cmake_lists.differences(["a.py"], wanted) == ["lacks b.py"]
    assert cmake_lists.differences([*wanted, "c.py"], wanted) == ["names c.py, which is not to be installed"]
    for given, line in (
        (["b.py", "a.py"], "b.py"),
        (["a.py", "a.py", "b.py"], "a.py"),
        ([*wanted, "b.py"], "b.py"),
    ):
        assert cmake_lists.differences(given, wanted) == [f"is not sorted, or has a line twice, at {line}"]


@pytest.mark.parametrize("module", cmake_lists.MODULES)
def test_written_lists_are_right_and_the_rest_of_the_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
):
    def without_lists() -> str:
        return re.sub(r"(?m)^  \S+\.?\w+\n", "", cmake_lists.lists_file(module).read_text(encoding="utf-8"))

    copy = tmp_path / "CMakeLists.txt"
    copy.write_text(without_lists(), encoding="utf-8")
    monkeypatch.setattr(cmake_lists, "lists_file", lambda module: copy)
    before = without_lists()
    assert all("lacks" in fault for fault in cmake_lists.faults(module))

    cmake_lists.write_lists(module)

    assert cmake_lists.faults(module) == []
    assert without_lists() == before


def test_the_installed_tree_holds_every_file_byte_for_byte_and_nothing_else(installed: Path):
    expected = {}
    for module, target in (("PartialSeg", installed), ("PartialSegLib", installed / "PartialSegLib")):
        for name in cmake_lists.files_to_install(module):
            expected[target / name] = (ROOT / module / name).read_bytes()
    files = (path for path in installed.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    present = {path: path.read_bytes() for path in files}

    assert sorted(present) == sorted(expected)
    assert [str(path) for path in expected if present[path] != expected[path]] == []


def test_slicer_sees_one_module(installed: Path):
    """Slicer takes every Python file at the top for a module."""
    assert [path.name for path in installed.glob("*.py")] == ["PartialSeg.py"]


def test_every_installed_python_file_compiles(installed: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in installed.rglob("*.py"):
            compile(path.read_bytes(), path, "exec")


def test_every_installed_resource_is_well_formed(installed: Path):
    for path in [*installed.rglob("*.ui"), *installed.rglob("*.svg")]:
        ElementTree.parse(path)
    for path in installed.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


def test_the_wheel_holds_every_file_that_the_extension_holds():
    with open(ROOT / "pyproject.toml", "rb") as file:
        (patterns,) = tomllib.load(file)["tool"]["setuptools"]["package-data"].values()
    library = ROOT / "PartialSegLib"
    packed = {path.relative_to(library).as_posix() for one in patterns for path in library.glob(one)}
    resources = cmake_lists.wanted_lists("PartialSegLib")[cmake_lists.RESOURCES]
    assert "py.typed" in resources  # else type checkers pass over our annotations
    assert set(resources) <= packed


def test_the_installed_library_loads_its_model_without_the_source(installed: Path):
    code = """
import PartialSegLib
from PartialSegLib.packages.installed import BUNDLED_MODELS
(name,) = [folder.name for folder in BUNDLED_MODELS.iterdir()]
model = PartialSegLib.load_model(BUNDLED_MODELS / name)
modules = [module for key, module in sys.modules.items() if key.startswith("PartialSegLib")]
assert all(module.__file__.startswith(sys.path[0]) for module in modules), modules
print(model.folder)
"""
    assert Path(run_isolated(code, installed)).is_relative_to(installed)


def test_every_installed_library_module_can_be_imported(installed: Path):
    names = sorted(
        ".".join(path.relative_to(installed).with_suffix("").parts).removesuffix(".__init__")
        for path in (installed / "PartialSegLib").rglob("*.py")
        if path.name != "__main__.py"
    )
    code = f"""
import importlib
for name in {names!r}:
    assert importlib.import_module(name).__file__.startswith(sys.path[0]), name
"""
    run_isolated(code, installed)


def test_the_installed_module_passes_the_tests_of_its_logic(installed: Path):
    code = f"""
import pathlib, pytest, slicer_scene
slicer_scene.MODULE_FOLDER = pathlib.Path(sys.path[0])
slicer_scene.boot()
tests = [sys.path[1] + "/" + name for name in {LOGIC_TESTS!r}]
failed = pytest.main(["-p", "no:cacheprovider", "-c", {str(ROOT / "pyproject.toml")!r}, *tests])
modules = [module for name, module in sys.modules.items() if name.startswith("PartialSeg")]
strangers = [module.__file__ for module in modules if not module.__file__.startswith({str(installed)!r})]
sys.exit(int(failed) or str(strangers or "") or 0)
"""
    run_isolated(code, installed, ROOT / "Testing" / "slicer_module")


def test_the_tests_of_the_module_are_registered(build: Path, installed: Path):
    listed = (build / "PartialSeg" / "CTestTestfile.cmake").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^add_test\W*(\w+)", listed) == ["py_nomainwindow_PartialSeg", "py_PartialSeg"]


def test_the_metadata_is_text_that_the_extensions_index_can_read(build: Path, installed: Path):
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert metadata(f"EXTENSION_{name}")
    description = (build / "PartialSeg.description.txt").read_text(encoding="utf-8")
    assert f"DESCRIPTION {metadata('EXTENSION_DESCRIPTION')}\n" in description


def test_icon_and_screenshots_are_files_of_the_repository():
    raw = metadata("EXTENSION_HOMEPAGE").replace("github.com", "raw.githubusercontent.com") + "/main/"
    for url in [metadata("EXTENSION_ICONURL"), *metadata("EXTENSION_SCREENSHOTURLS").split()]:
        assert url.startswith(raw)
        assert (ROOT / url.removeprefix(raw)).read_bytes().startswith(b"\x89PNG")


def test_the_catalogue_entry_follows_the_schema_and_the_cmake_files():
    assert b"\r" not in CATALOGUE.read_bytes()
    entry = json.loads(CATALOGUE.read_text(encoding="utf-8"))

    assert {"$schema", "category", "scm_url"} <= entry.keys() <= FIELDS.keys()
    assert all(type(value) is FIELDS[key] for key, value in entry.items())
    assert entry["$schema"].endswith(SCHEMA)
    assert entry["category"] == "Segmentation"
    assert entry["build_dependencies"] == metadata("EXTENSION_DEPENDS").split()
    assert entry["scm_url"].removesuffix(".git") == metadata("EXTENSION_HOMEPAGE")
    assert entry["scm_url"].rpartition("/")[2].startswith("Slicer")
    assert 1 <= entry["tier"] <= 5
    assert f"project({CATALOGUE.stem})" in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("NAME Sample FLAVOUR sweet SCRIPTS Sample.py", "unknown keywords"),
        ("SCRIPTS Sample.py", "NAME and SCRIPTS are needed"),
        ("NAME Sample SCRIPTS Missing.py", "no file Missing.py"),
        ("NAME Sample SCRIPTS Sample.py RESOURCES ../Sample.py", "is not below"),
    ],
)
def test_the_stub_refuses_what_slicers_macro_would_refuse_or_lose(tmp_path: Path, arguments: str, fault: str):
    (tmp_path / "Sample.py").write_text("")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.28)\n"
        "project(Sample LANGUAGES NONE)\n"
        "find_package(Slicer REQUIRED)\n"
        "include(${Slicer_USE_FILE})\n"
        f"slicerMacroBuildScriptedModule({arguments})\n"
    )
    with pytest.raises(pytest.fail.Exception) as refusal:
        configure(tmp_path, tmp_path / "build")
    assert fault in " ".join(str(refusal.value).split())  # CMake wraps its lines
