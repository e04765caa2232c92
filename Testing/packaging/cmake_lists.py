"""Compares the files listed in the CMakeLists.txt of PartialSeg and PartialSegLib with those git knows.

`python Testing/packaging/cmake_lists.py` says which lines are missing or too many; with `--write` it corrects
the lists.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("PartialSeg", "PartialSegLib")
SCRIPTS, RESOURCES = "MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES"


def files_to_install(module: str) -> list[str]:
    """Files an extension needs, relative to the module's folder: committed and new ones, no ignored ones."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", module]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    paths = {ROOT / name for name in output.split("\0") if name}
    names = {path.relative_to(ROOT / module).as_posix() for path in paths if path.exists()}
    return sorted(names - {"CMakeLists.txt"})


def wanted_lists(module: str) -> dict[str, list[str]]:
    """What the two lists of a module should hold."""
    files = files_to_install(module)
    scripts = [name for name in files if name.endswith(".py")]
    return {SCRIPTS: scripts, RESOURCES: [name for name in files if name not in scripts]}


def _list_of(variable: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=set\({variable}\n)(.*?)(?=  \)\n)", re.DOTALL)


def listed(module: str, variable: str) -> list[str]:
    """What a list of a module holds, in its order."""
    found = _list_of(variable).search(lists_file(module).read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{lists_file(module)} has no set({variable} …)")
    return found[1].split()


def faults(module: str) -> list[str]:
    """A sentence for each line that is missing, too many or out of order."""
    return [
        f"{module}/CMakeLists.txt: {variable} {fault}"
        for variable, wanted in wanted_lists(module).items()
        for fault in differences(listed(module, variable), wanted)
    ]


def differences(given: list[str], wanted: list[str]) -> list[str]:
    """What has to change in a list, line by line."""
    missing = [f"lacks {name}" for name in wanted if name not in given]
    superfluous = [f"names {name}, which is not to be installed" for name in given if name not in wanted]
    if not missing and not superfluous and given != wanted:
        first = next(name for name, other in zip(given, [*wanted, None], strict=False) if name != other)
        return [f"is not sorted, or has a line twice, at {first}"]
    return missing + superfluous


def write_lists(module: str) -> None:
    """Correct both lists of a module in place."""
    text = lists_file(module).read_text(encoding="utf-8")
    for variable, wanted in wanted_lists(module).items():
        lines = "".join(f"  {name}\n" for name in wanted)
        text = _list_of(variable).sub(lambda _, lines=lines: lines, text, count=1)
    lists_file(module).write_text(text, encoding="utf-8", newline="\n")


def lists_file(module: str) -> Path:
    """The file with the two lists of a module."""
    return ROOT / module / "CMakeLists.txt"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        for name in MODULES:
            write_lists(name)
    problems = [sentence for name in MODULES for sentence in faults(name)]
    sys.exit("\n".join(problems) or 0)
