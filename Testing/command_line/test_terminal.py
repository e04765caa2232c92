"""What is drawn where a person is watching, and that files and pipes get none of it."""

import io
import sys

from PartialSegLib.cli.terminal import announced


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_announced_on_a_terminal_is_gone_afterwards(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with announced("Importing model.pth"):
        assert terminal.getvalue().startswith("Importing model.pth …")
    said, wiped, rest = terminal.getvalue().split("\r")
    assert wiped == " " * len(said)
    assert rest == ""


def test_a_pipe_hears_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    with announced("Importing model.pth"):
        pass
    assert pipe.getvalue() == ""
