"""The worker's ends of the pipe: requests come in by a thread of their own, and only replies go out."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from ..protocol import LINE_LIMIT, Cancel, ProtocolError, Request, encode, parse_request

logger = logging.getLogger(__name__)


def take_over_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Keep standard input and output for the wire alone.

    File descriptor 1 becomes standard error and 0 the null device, so that nothing any library prints, reads
    or hands on to a child process touches the wire.

    Returns:
        Where requests come from, and where replies go to.
    """
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null_device = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null_device, 0)
    os.close(null_device)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, replies


class Replies:
    """Writes messages; ends the process when nobody reads them any more.

    Args:
        stream: where they go to.
        leave: ends the process with an exit code.
    """

    def __init__(self, stream: BinaryIO, leave: Callable[[int], NoReturn] = os._exit) -> None:
        self._stream = stream
        self._leave = leave

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one message at once."""
        line = encode(message).encode("ascii")
        try:
            self._stream.write(line + b"\n")
            self._stream.flush()
        except OSError:
            self._leave(1)


@dataclass(eq=False)
class Waiting:
    """Something to answer: a request, or the error of a line that was none.

    Attributes:
        content: what was read.
        is_cancelled: whether the client asked for its end.
    """

    content: Request | ProtocolError
    is_cancelled: bool = False


class Inbox:
    """What was read and is not answered yet, in order.

    The first request stays until its reply is out, and a cancel concerns it. Replying and taking it off are
    one step, so for a client that waits for a reply before it sends the next request, a cancel never hits
    another request than it was meant for.

    Args:
        leave: ends the process with an exit code, when the client is gone.
    """

    def __init__(self, leave: Callable[[int], NoReturn] = os._exit) -> None:
        self._leave = leave
        self._waiting: deque[Waiting] = deque()
        self._changed = threading.Condition()

    def read_from(self, stream: BinaryIO) -> None:
        """Read in a thread of its own; the end of the stream ends the process, whatever it is doing."""
        threading.Thread(target=self._read, args=(stream,), name="requests", daemon=True).start()

    def first(self) -> Waiting:
        """Wait for something to answer."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            return self._waiting[0]

    def answer(self, replies: Replies, message: Mapping[str, Any]) -> None:
        """Reply to the first, which makes the next one first."""
        with self._changed:
            replies.send(message)
            self._waiting.popleft()

    def _read(self, stream: BinaryIO) -> NoReturn:
        code = 1
        try:
            for line in read_lines(stream):
                self._take(line)
            code = 0
        except Exception:
            logger.exception("Requests cannot be read any more.")
        finally:
            self._leave(code)

    def _take(self, line: bytes | None) -> None:
        content: Request | Cancel | ProtocolError
        try:
            if line is None:
                raise ProtocolError(f"A line is longer than {LINE_LIMIT} bytes; send arrays as files.")
            content = parse_request(line)
        except ProtocolError as error:
            content = error
        with self._changed:
            if not isinstance(content, Cancel):
                self._waiting.append(Waiting(content))
                self._changed.notify()
                return
            requests = (item for item in self._waiting if isinstance(item.content, Request))
            for running in list(requests)[:1]:
                running.is_cancelled = True


def read_lines(stream: BinaryIO, limit: int = LINE_LIMIT) -> Iterator[bytes | None]:
    """Lines of a stream as they come in; None for a line above the limit in bytes, which is passed over."""
    while line := stream.readline(limit + 1):
        if len(line) <= limit or line.endswith(b"\n"):
            yield line
            continue
        while (rest := stream.readline(limit)) and not rest.endswith(b"\n"):
            pass
        yield None
