"""Worker processes that run what a notebook's cell defines."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import cloudpickle

PATIENCE = 5.0  # seconds that a worker gets to end by itself


class WorkerDied(EOFError, ConnectionError):
    """A worker process ended while something was still expected of it."""


class Worker(subprocess.Popen):
    """A worker process. Waiting for its end takes at most ``PATIENCE``: then it is killed."""

    def wait(self, timeout: float | None = None) -> int:
        try:
            return super().wait(PATIENCE if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            if timeout is not None:
                raise
            self.kill()
            return super().wait()


class Line(Connection):
    """Our end of a worker's pipe; it answers WorkerDied, in one sentence, as soon as the worker is gone."""

    worker: Worker | None = None

    def _recv(self, *arguments: Any) -> Any:
        with self._alive():
            return super()._recv(*arguments)

    def _send(self, *arguments: Any) -> None:
        with self._alive():
            super()._send(*arguments)

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError):
            code = self.worker.wait() if self.worker else None
            raise WorkerDied(
                f"A worker process ended before its work was done (exit status {code}); "
                "what it said last, if anything, stands above."
            ) from None


def spawn(function: Callable, *arguments: object) -> tuple[Worker, Line]:
    """Start ``function(connection, *arguments)`` in a fresh process; return the process and our end of the pipe.

    The function travels by value (cloudpickle), so an edited cell counts, and the process never imports the
    caller's main module. It is out of Ctrl-C's reach and ends when our end of the pipe is closed.
    """
    ours, theirs = socket.socketpair()
    line = Line(ours.detach())
    command = [sys.executable, "-m", __name__, str(theirs.fileno())]
    with theirs:
        process = Worker(command, pass_fds=[theirs.fileno()], start_new_session=True)
    line.worker = process
    line.send_bytes(cloudpickle.dumps((function, arguments)))
    return process, line


class Crew:
    """Worker processes and our ends of their pipes; a context manager that ends them all.

    ``function(connection, *arguments)`` is run once for each tuple of ``arguments``. A worker that dies gives
    WorkerDied, one that does not end by itself is killed after ``PATIENCE`` seconds.
    """

    def __init__(self, function: Callable, arguments: Sequence[tuple]) -> None:
        self.members: list[tuple[Worker, Line]] = []
        try:
            self.members += (spawn(function, *each) for each in arguments)
        except BaseException:
            self.close()
            raise

    def ask(self, orders: Sequence[object]) -> list:
        """One order to each worker, then one answer from each, in their order."""
        for (_, line), order in zip(self.members, orders, strict=True):
            line.send(order)
        return [line.recv() for _, line in self.members]

    def messages(self) -> Iterator[object]:
        """What the workers send, as it comes, until the last one has ended. Raises WorkerDied for one that failed."""
        open_lines = {line: process for process, line in self.members}
        while open_lines:
            for line in wait(list(open_lines)):
                try:
                    message = line.recv()
                except WorkerDied:
                    if open_lines.pop(line).wait() != 0:
                        raise
                    continue
                yield message

    def close(self) -> None:
        """Close the pipes, at which the workers end, and wait for them."""
        for _, line in self.members:
            line.close()
        for process, _ in self.members:
            process.wait()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _main() -> None:
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, ConnectionError):
        function, arguments = cloudpickle.loads(connection.recv_bytes())
        function(connection, *arguments)


if __name__ == "__main__":
    _main()
