"""What is drawn where a person is watching, and that files and pipes get none of it."""

import errno
import io
import os
import sys

import pytest

from PartialSegLib.cli.terminal import announced, write_line, write_table


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


def test_what_strangers_have_written_does_not_steer_the_terminal(capsys):
    write_table(["NAME", "LICENCE"], [["Léber 肝臓", "\x1b[2J\x9b31mowned\r\x07"]])
    assert capsys.readouterr().out == "NAME      LICENCE\nLéber 肝臓  \ufffd[2J\ufffd31mowned\ufffd\ufffd\n"


@pytest.mark.parametrize("name", ["EPIPE", "EINVAL"])  # the latter on Windows
def test_work_goes_on_when_nobody_reads_any_more(monkeypatch, tmp_path, name):
    class ClosedPipe(io.StringIO):
        def flush(self) -> None:
            raise OSError(getattr(errno, name), "closed")

        def fileno(self) -> int:
            return file.fileno()

    with (tmp_path / "pipe").open("wb") as file:
        monkeypatch.setattr(sys, "stdout", ClosedPipe())
        write_line("one of many cases")
        os.write(file.fileno(), b"what is said later leads nowhere")
    assert (tmp_path / "pipe").read_bytes() == b""
