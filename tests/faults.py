"""Plant each of many faults in a copy of the book and tell which are seen: ``make faults``.

A fault is a change of one place (``tests/faults/*.toml``: name, file, old, new, tests) that leaves the code running. It
counts as seen when the tests that it names pass without it and fail with it. Each of them came back once, or may.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "_build", "__pycache__", ".*_cache", "runs", "*.ipynb"
)


def faults() -> list[dict]:
    return [
        fault
        for path in sorted((ROOT / "tests" / "faults").glob("*.toml"))
        for fault in tomllib.loads(path.read_text(encoding="utf8"))["fault"]
    ]


def passes(copy: Path, tests: list[str]) -> bool:
    """Whether the tests pass in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "RLBOOK_BUDGET": "smoke"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(
            f"The tests {' '.join(tests)} cannot be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make faults", description="Plant faults; say which the tests see."
    )
    parser.add_argument(
        "part", nargs="?", default="", help="only faults whose name or file contains this"
    )
    part = parser.parse_args().part
    chosen = [fault for fault in faults() if part in fault["name"] or part in fault["file"]]
    sound: dict[tuple[str, ...], bool] = {}
    seen = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "book"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        for fault in chosen:
            path, tests = copy / fault["file"], fault["tests"]
            text = path.read_text(encoding="utf8")
            if text.count(fault["old"]) != 1:
                sys.exit(
                    f"{fault['name']}: its place stands {text.count(fault['old'])} times in {fault['file']}."
                )
            if tuple(tests) not in sound:
                sound[tuple(tests)] = passes(copy, tests)
            if not sound[tuple(tests)]:
                sys.exit(f"{fault['name']}: its tests fail without it: {' '.join(tests)}")
            path.write_text(text.replace(fault["old"], fault["new"]), encoding="utf8")
            caught = not passes(copy, tests)
            path.write_text(text, encoding="utf8")
            seen += caught
            print(f"{'seen  ' if caught else 'MISSED'}  {fault['name']}", flush=True)
    print(f"{seen} of {len(chosen)} faults seen")
    return int(seen < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
