"""What the computer and the process say of their memory, read from real files laid out as Linux does."""

import subprocess
import sys

import pytest

from PartialSegLib import system_memory
from PartialSegLib.system_memory import available_memory, gigabytes, peak_memory, resident_memory

MEMINFO = "MemTotal:       8000 kB\nMemFree:  100 kB\nMemAvailable:   6000 kB\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    return tmp_path


def write_group(folder, limit_file, limit, usage_file, usage, cache_line, cache):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / usage_file).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{cache_line} {cache}\n")


def write_new_group(folder, limit, usage, cache=0):
    write_group(folder, "memory.max", limit, "memory.current", usage, "inactive_file", cache)


def write_old_group(folder, limit, usage, cache=0):
    files = "memory.limit_in_bytes", limit, "memory.usage_in_bytes", usage
    write_group(folder, *files, "total_inactive_file", cache)


def test_this_computer_and_this_process_tell_their_memory():
    assert available_memory() > 1 << 20
    assert 1 << 20 < resident_memory() <= peak_memory()


def test_the_peak_keeps_what_was_given_back():
    code = (
        "from PartialSegLib.system_memory import peak_memory, resident_memory; "
        "b = bytearray(b'1') * (200 << 20); del b; print(peak_memory() - resident_memory())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) > 150 << 20


def test_without_control_groups_the_computer_alone_counts(root):
    assert available_memory(root) == 6000 * 1024


def test_a_control_group_leaves_its_limit_without_what_is_used_but_with_the_cache(root):
    (root / "proc/self/cgroup").write_text("0::/batch/job\n")
    write_new_group(root / "sys/fs/cgroup/batch/job", 1_000_000, 300_000, 50_000)
    assert available_memory(root) == 750_000


def test_groups_that_contain_the_group_count_too(root):
    (root / "proc/self/cgroup").write_text("0::/batch/job\n")
    write_new_group(root / "sys/fs/cgroup/batch/job", "max", 300_000)
    write_new_group(root / "sys/fs/cgroup/batch", 500_000, 400_000)
    assert available_memory(root) == 100_000


def test_control_groups_of_version_1_are_read(root):
    (root / "proc/self/cgroup").write_text("5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    write_old_group(root / "sys/fs/cgroup/memory/job", 900_000, 500_000, 100_000)
    assert available_memory(root) == 500_000


def test_a_group_that_is_over_its_limit_leaves_nothing(root):
    (root / "proc/self/cgroup").write_text("0::/job\n")
    write_new_group(root / "sys/fs/cgroup/job", 100, 300)
    assert available_memory(root) == 0


def test_a_system_that_does_not_tell_its_memory_is_no_problem(tmp_path, monkeypatch):
    assert available_memory(tmp_path) is peak_memory(tmp_path) is resident_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemFree: 1 kB\n")
    assert available_memory(tmp_path) is None
    monkeypatch.setattr(system_memory.sys, "platform", "win32")
    assert available_memory() is peak_memory() is None


def test_bytes_are_told_in_gigabytes():
    assert [gigabytes(count) for count in (3 << 29, 20 << 20)] == ["1.5 GB", "20 MB"]
