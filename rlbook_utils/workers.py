"""Worker processes that run what a notebook's cell defines."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import cloudpickle

_context = multiprocessing.get_context("spawn")  # forking a process that has started threads can deadlock


def spawn(function: Callable, *arguments: object) -> tuple[BaseProcess, Connection]:
    """Start ``function(connection, *arguments)`` in a fresh process; return the process and our end of the pipe.

    The function travels by value (cloudpickle), so an edited cell counts. The process ignores Ctrl-C, which is
    its parent's to handle, and ends when the parent's end of the pipe is closed.
    """
    ours, theirs = _context.Pipe()
    payload = cloudpickle.dumps((function, arguments))
    process = _context.Process(target=_run, args=(theirs, payload), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _run(connection: Connection, payload: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    function, arguments = cloudpickle.loads(payload)
    with contextlib.suppress(EOFError, BrokenPipeError):
        function(connection, *arguments)
