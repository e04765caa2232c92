"""Run the worker: `python -m PartialSegLib.worker --scratch FOLDER`."""

from __future__ import annotations

import argparse
import faulthandler
import io
import logging
import os
import signal
import sys
from pathlib import Path
from time import perf_counter
from typing import NoReturn

from .. import __version__
from ..failures import describe_failure, has_lost_device, is_fault_of_ours, lacks_library
from ..protocol import (
    Request,
    error_message,
    progress_message,
    ready_message,
    result_message,
    warning_message,
)
from .scratch import ScratchFolder
from .service import Conversation, Service
from .wire import Inbox, Replies, Waiting, take_over_standard_streams

FILE_SECONDS = 4.0
"""How long the end waits for a segmentation file; after five seconds the panel kills."""

logger = logging.getLogger("PartialSegLib.worker")


def main() -> NoReturn:
    """Serve requests from standard input until it ends, which ends the process and removes the folder.

    A segmentation file that is being written is finished first, where that takes a few seconds at most.
    """
    parser = argparse.ArgumentParser(
        prog="python -m PartialSegLib.worker", description="Serves the panel of 3D Slicer over a pipe."
    )
    parser.add_argument(
        "--scratch",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="where arrays are left; removed at the end",
    )
    scratch: Path = parser.parse_args().scratch
    if not scratch.is_dir():
        parser.error(f"there is no folder {scratch}; create it first")
    requests, replies = take_over_standard_streams()
    _set_up_process()
    folder = ScratchFolder(scratch.resolve())
    service = Service(folder)

    def leave(code: int) -> NoReturn:
        try:
            service.finish_file(FILE_SECONDS)
            folder.remove_all()
        finally:
            os._exit(code)

    inbox = Inbox(leave)
    inbox.read_from(requests)
    run(service, inbox, Replies(replies, leave))
    leave(0)


def run(service: Service, inbox: Inbox, replies: Replies) -> None:
    """Answer what comes in, one after the other; "ready" goes first, once something has come in.

    Returns when a library could not be loaded, parts of which stay in this process, or when the graphics card
    was lost: neither would work here again, even after it was repaired.
    """
    inbox.first()
    replies.send(ready_message(__version__, os.getpid()))
    is_sound = True
    while is_sound:
        message, is_sound = _answer(inbox.first(), service, replies)
        inbox.answer(replies, message)


def _answer(waiting: Waiting, service: Service, replies: Replies) -> tuple[dict[str, object], bool]:
    """The reply to a request, or to a line that was none, and whether this process can go on."""
    if not isinstance(waiting.content, Request):
        logger.info("Refused: %s", waiting.content)
        return error_message(waiting.content.id, *describe_failure(waiting.content)), True
    request, start = waiting.content, perf_counter()
    talk = Conversation(
        send_progress=lambda done, total: replies.send(progress_message(request.id, done, total)),
        send_warning=lambda sentence: replies.send(warning_message(request.id, sentence)),
        is_cancelled=lambda: waiting.is_cancelled,
    )
    try:
        message = result_message(request.id, service.serve(request, talk))
        outcome, fault, is_sound = "done", None, True
    except Exception as error:
        kind, sentence, advice = describe_failure(error)
        message = error_message(request.id, kind, sentence, advice)
        outcome, fault = f"{kind}: {sentence}", error if is_fault_of_ours(error) else None
        is_sound = not (lacks_library(error) or has_lost_device(error))
    seconds = perf_counter() - start
    logger.info("%s %s, %.2f s: %s", request.method, request.id, seconds, outcome, exc_info=fault)
    return message, is_sound


def _set_up_process() -> None:
    """Log to standard error in UTF-8, and leave interrupts to the client, who closes the pipe to end us.

    PyTorch, which comes with the first request, reads the environment.
    """
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("PartialSegLib").setLevel(logging.INFO)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # the CPU does what Apple's GPUs cannot


if __name__ == "__main__":
    main()
