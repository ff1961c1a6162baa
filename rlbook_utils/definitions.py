"""Take definitions from a chapter without running it."""

import ast
import functools
import sys
from pathlib import Path
from types import ModuleType

CHAPTERS = Path(__file__).resolve().parents[1] / "chapters"


@functools.cache
def load_chapter(name: str) -> ModuleType:
    """The imports, functions, classes and UPPER_CASE constants of ``chapters/<name>.py`` as a module.

    Nothing else of the chapter runs. The module leaves ``sys.modules`` again, so that cloudpickle sends what it
    defines to worker processes by value, as from a notebook. Raises FileNotFoundError, naming the chapters there are.
    """
    path = CHAPTERS / f"{name}.py"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in CHAPTERS.glob("ch*.py")))
        raise FileNotFoundError(f"There is no chapter {name!r}; there are: {known}.")
    tree = ast.parse(path.read_text(encoding="utf8"), str(path))
    tree.body = [node for node in tree.body if _defines(node)]
    module = ModuleType(f"rlbook_chapter_{name}", ast.get_docstring(tree))
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up while they are made
    try:
        exec(compile(tree, str(path), "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module


def _defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
        return True
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [
            n
            for target in targets
            for n in (target.elts if isinstance(target, ast.Tuple) else [target])
        ]
        return all(isinstance(name, ast.Name) and name.id.isupper() for name in names)
    return False
