"""Worker processes that run what a notebook's cell defines."""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import cloudpickle


def spawn(function: Callable, *arguments: object) -> tuple[subprocess.Popen, Connection]:
    """Start ``function(connection, *arguments)`` in a fresh process; return the process and our end of the pipe.

    The function travels by value (cloudpickle), so an edited cell counts, and the process never imports the
    caller's main module. It is out of Ctrl-C's reach and ends when our end of the pipe is closed.
    """
    ours, theirs = Pipe()
    command = [sys.executable, "-m", __name__, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
    theirs.close()
    ours.send_bytes(cloudpickle.dumps((function, arguments)))
    return process, ours


def _main() -> None:
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, ConnectionError):
        function, arguments = cloudpickle.loads(connection.recv_bytes())
        function(connection, *arguments)


if __name__ == "__main__":
    _main()
