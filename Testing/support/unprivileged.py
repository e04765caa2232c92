"""Lets root be refused what others are refused, so that tests of permissions run in containers, too."""

import ctypes
import os
import subprocess
import sys
from typing import Any

import pytest

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


def run_unprivileged(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program for which permissions of files count, whoever runs the tests."""
    if os.name != "posix":
        pytest.skip("permissions of folders exist on Unix only")
    is_root = os.geteuid() == 0
    if is_root and sys.platform != "linux":
        pytest.skip("root may write anywhere")
    prctl = ctypes.CDLL(None).prctl if is_root else None

    def give_up() -> None:
        if prctl is not None and prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
            raise PermissionError

    return subprocess.run(command, capture_output=True, text=True, preexec_fn=give_up, **options)
