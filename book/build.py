"""Build the static book: ``python book/build.py [FOLDER]`` (default: book/_build/html).

The widgets' and the equations' JavaScript comes from npm, in the versions of package.json, and becomes part of
the book, which then makes no network request. Sphinx takes the stored outputs and runs nothing.
"""

import argparse
import base64
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

BOOK = Path(__file__).resolve().parent
COPIED = (".md", ".bib", "figures", ".svg")
JAVASCRIPT = BOOK / "_build" / "javascript" / "js"  # its parent is one of conf.py's static folders
WANTED = {
    "@jupyter-widgets/html-manager": "dist/embed-amd.js",
    "mathjax": "es5/tex-svg-full.js",
    "requirejs": "require.js",
}


def fetch_javascript() -> bool:
    """Bring the JavaScript up to date with package.json; False, after one sentence, where that cannot be done.

    ``npm pack`` and not ``npm install``: each file is a bundle, so the packages it was built from are not needed.
    """
    wanted = (BOOK / "package.json").read_text()
    stamp = JAVASCRIPT / "package.json"
    if stamp.exists() and stamp.read_text() == wanted:
        return True
    shutil.rmtree(JAVASCRIPT, ignore_errors=True)
    without = "the book falls back to a CDN for its widgets and equations, and needs a network to show them."
    if not (npm := shutil.which("npm")):
        print(f"npm is not installed: {without}", file=sys.stderr)
        return False
    with tempfile.TemporaryDirectory() as folder:
        for name, version in json.loads(wanted)["dependencies"].items():
            command = [
                npm,
                "pack",
                f"{name}@{version}",
                "--prefer-offline",
                "--pack-destination",
                folder,
            ]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                print(
                    f"npm could not fetch {name} {version}: {without}\n{done.stderr}",
                    file=sys.stderr,
                )
                return False
            with tarfile.open(Path(folder) / done.stdout.split()[-1]) as package:
                content = package.extractfile(f"package/{WANTED[name]}").read().decode()
                # The widgets' icons: their font is looked for beside the page; put it into the script instead.
                for font in set(re.findall(r'\b\w\.p\+"(\w+\.woff2)"', content)):
                    data = base64.b64encode(
                        package.extractfile(f"package/dist/{font}").read()
                    ).decode()
                    content = re.sub(
                        rf'\b\w\.p\+"{font}"', f'"data:font/woff2;base64,{data}"', content
                    )
            JAVASCRIPT.mkdir(parents=True, exist_ok=True)
            (JAVASCRIPT / Path(WANTED[name]).name).write_text(content)
    stamp.write_text(wanted)
    return True


def gather_pages(source: Path) -> Path:
    """Copy the pages and the chapters' notebooks into one folder, as Sphinx wants them.

    A copy and not a link: the links between pages resolve through a link to where it points.
    """
    shutil.copytree(
        BOOK,
        source,
        ignore=lambda _, names: [name for name in names if not name.endswith(COPIED)],
    )
    (source / "chapters").mkdir()
    for notebook in sorted(BOOK.parent.glob("chapters/ch*.ipynb")):
        shutil.copy(notebook, source / "chapters")
    return source


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make book", description="Build the static book from the stored outputs."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=BOOK / "_build" / "html")
    folder = parser.parse_args().folder.resolve()
    fetch_javascript()
    shutil.rmtree(folder, ignore_errors=True)  # no page of an earlier build stays behind
    with tempfile.TemporaryDirectory() as parent:
        source = gather_pages(Path(parent) / "book")
        options = [
            "-q",
            "-W",
            "--keep-going",
            "-b",
            "html",
            "-c",
            str(BOOK),
            "-d",
            f"{parent}/doctrees",
        ]
        code = subprocess.run(
            [sys.executable, "-m", "sphinx", *options, str(source), str(folder)]
        ).returncode
    if code == 0:
        print(f"The book is built: {folder / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
