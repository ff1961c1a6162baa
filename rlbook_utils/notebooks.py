"""Keep each chapter's notebook and script in step: execute what changed, carry over prose, mark the code.

``make notebooks`` executes the chapters whose code differs from the code their outputs came from; where only
prose changed, the outputs stay.
"""

import argparse
import contextlib
import hashlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
import psutil
from nbclient import NotebookClient
from nbformat import NotebookNode

from rlbook_utils.config import budget
from rlbook_utils.definitions import CHAPTERS


def code_hash(notebook: NotebookNode) -> str:
    """A hash of the code cells' sources, in order; prose does not count."""
    code = "\0".join(cell.source.strip() for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def read_script(path: Path) -> NotebookNode:
    """The notebook that a ``.py`` of the pair describes, without outputs, its cells numbered."""
    notebook = jupytext.read(path)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:03d}"
    return notebook


def update(path: Path, *, force: bool = False) -> str:
    """Bring ``path``'s notebook up to date with its script; say what was done."""
    notebook = read_script(path)
    stored_path = path.with_suffix(".ipynb")
    stored = nbformat.read(stored_path, as_version=4) if stored_path.exists() else None
    digest = code_hash(notebook)
    if stored and not force and stored.metadata.get("rlbook", {}).get("code_hash") == digest:
        outputs = iter(cell for cell in stored.cells if cell.cell_type == "code")
        for cell in notebook.cells:
            if cell.cell_type == "code":
                old = next(outputs)
                cell.outputs, cell.execution_count = old.outputs, old.execution_count
        notebook.metadata = {**stored.metadata, **notebook.metadata}
        done = "prose carried over"
    else:
        for checkpoint in CHAPTERS.parent.glob(f"runs/{path.stem[:4]}_*"):
            checkpoint.unlink()  # outputs show whole runs, not the rest of earlier ones
        began = time.perf_counter()
        client = NotebookClient(
            notebook,
            timeout=None,
            store_widget_state=True,
            coalesce_streams=True,  # a line that is printed in two goes stays one
            resources={"metadata": {"path": CHAPTERS}},
        )
        with _peak_memory(client) as peak:
            client.execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
        seconds = time.perf_counter() - began
        notebook.metadata["rlbook"] = {
            "code_hash": digest,
            "seconds": round(seconds),
            "peak_mb": round(peak[0]),
            "budget": budget(),
        }
        done = f"executed in {seconds:.0f} s"
    nbformat.write(notebook, stored_path)
    return f"{path.stem}: {done}, {stored_path.stat().st_size / 2**20:.2f} MB"


@contextlib.contextmanager
def _peak_memory(client: NotebookClient) -> Iterator[list[float]]:
    """The most memory that the kernel and its children held together, sampled, in MB (shared pages count twice)."""
    peak, done = [0.0], threading.Event()

    def sample() -> None:
        while not done.wait(0.5):
            with contextlib.suppress(psutil.Error, AttributeError):
                kernel = psutil.Process(client.km.provisioner.pid)
                family = (kernel, *kernel.children(recursive=True))
                peak[0] = max(peak[0], sum(process.memory_info().rss for process in family) / 1e6)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make notebooks", description="Bring the notebooks up to date with their scripts."
    )
    parser.add_argument("chapters", nargs="*", help="such as ch01_evolution (default: all)")
    parser.add_argument(
        "--force", action="store_true", help="execute even where the code is unchanged"
    )
    arguments = parser.parse_args()
    paths = [CHAPTERS / f"{name}.py" for name in arguments.chapters] or sorted(
        CHAPTERS.glob("ch*.py")
    )
    for path in paths:
        if not path.exists():
            sys.exit(f"There is no chapter {path.stem!r}.")
        print(update(path, force=arguments.force), flush=True)


if __name__ == "__main__":
    main()
