"""The import rules of docs/design.md, checked on the source by ast."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "PartialSegLib"


def layers_of_the_design() -> dict[str, int]:
    """Layer of each module by the table of docs/design.md; that of PartialSeg/ is left out."""
    page = (LIBRARY.parent / "docs" / "design.md").read_text(encoding="utf-8")
    table = re.search(r"^6 .*?^(5 .*?)^```", page, re.MULTILINE | re.DOTALL)
    assert table
    layers, layer = {}, 0
    for line in table[1].splitlines():
        layer = int(line[0]) if line[0].isdigit() else layer
        layers |= dict.fromkeys(re.sub(r"^\d|\(.*\)", "", line).split(), layer)
    return layers


LAYER_OF = layers_of_the_design()
MODULES = sorted(LIBRARY.rglob("*.py"))


def name_of(path: Path) -> str:
    """The file or folder of the library that a module is in: "volume", "networks"."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def place_of(path: Path) -> str:
    return path.relative_to(LIBRARY).as_posix()


def imports(path: Path, *, at_top_only: bool = False) -> Iterator[str]:
    """Absolute names of what a file imports, relative imports resolved, those for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ("PartialSegLib", *path.relative_to(LIBRARY).parent.parts)
    for node in tree.body if at_top_only else runtime_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from runtime_nodes(child)


def inner_imports(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(path) if name.startswith("PartialSegLib.")}
    return names & LAYER_OF.keys() - {name_of(path)}


def outer_imports(path: Path, **options: bool) -> set[str]:
    return {name.split(".")[0] for name in imports(path, **options)}


def loads_no_torch(code: str) -> bool:
    command = [sys.executable, "-c", f"{code}; import sys; sys.exit('torch' in sys.modules)"]
    return subprocess.run(command, cwd=LIBRARY.parent).returncode == 0


def modules_in(*layers: int) -> list[Path]:
    return [path for path in MODULES if LAYER_OF.get(name_of(path)) in layers]


def test_every_module_has_a_layer():
    assert {name_of(path) for path in MODULES} - {"__init__"} == LAYER_OF.keys()


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p) != "__init__"], ids=place_of)
def test_imports_point_downwards(path):
    upwards = {name for name in inner_imports(path) if LAYER_OF[name] > LAYER_OF[name_of(path)]}
    assert not upwards


def test_nothing_imports_itself_in_a_circle():
    graph = {name: set() for name, layer in LAYER_OF.items() if layer < 5}
    for path in MODULES:
        if name_of(path) in graph:
            graph[name_of(path)] |= inner_imports(path)
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_nothing_imports_slicer():
    for path in MODULES:
        assert not outer_imports(path) & {"slicer", "qt", "vtk", "ctk"}, path


def test_layer_0_imports_no_torch_and_simpleitk_only_inside_functions():
    for path in modules_in(0):
        assert not outer_imports(path) & {"torch", "safetensors"}, path
        assert "SimpleITK" not in outer_imports(path, at_top_only=True), path


def test_networks_know_nothing_but_torch():
    for path in modules_in(1):
        assert not inner_imports(path), path
        assert "numpy" not in outer_imports(path), path


def test_geometry_and_preprocessing_know_no_networks():
    for path in modules_in(2):
        assert "networks" not in inner_imports(path), path


def test_only_the_commands_of_training_know_the_command_line():
    for path in MODULES:
        is_command = "\ndef main(" in path.read_text("utf-8")
        if name_of(path) == "training" and not is_command:
            assert "cli" not in inner_imports(path), path


def test_only_importers_read_pickled_files_and_only_model_reads_weights():
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        if name_of(path) not in ("importers", "training"):
            assert "torch.load(" not in source, path
        if name_of(path) != "importers":
            assert "pickle" not in outer_imports(path), path
        # Importers only look how a file is stored.
        if path.stem != "archive" and name_of(path) != "importers":
            assert "zipfile" not in outer_imports(path), path
        if name_of(path) not in ("model", "training"):
            assert "safetensors" not in outer_imports(path), path


def test_importing_the_library_imports_no_torch():
    assert loads_no_torch("import PartialSegLib; assert dir(PartialSegLib) == PartialSegLib.__all__")


def test_describing_a_volume_needs_no_torch():
    assert loads_no_torch("import PartialSegLib.cli.inspecting")


def test_layer_0_runs_without_torch():
    places = sorted(path.relative_to(LIBRARY).with_suffix("") for path in modules_in(0))
    names = [".".join(("PartialSegLib", *place.parts)) for place in places if place.stem != "__main__"]
    assert loads_no_torch(f"import {', '.join(names)}")


def test_every_public_name_can_be_imported():
    import PartialSegLib

    for name in PartialSegLib.__all__:
        assert getattr(PartialSegLib, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        PartialSegLib.nothing  # noqa: B018
