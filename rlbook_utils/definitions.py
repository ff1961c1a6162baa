"""Take definitions from a chapter without running it, and tell which definitions a measurement reaches."""

import ast
import contextlib
import copy
import dis
import functools
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ROOT / "chapters"
PACKAGE = __package__
LOADED = "rlbook_chapter_"  # how the modules of loaded chapters begin
# What these modules do shows, stores or carries what a measurement found; it does not decide it.
BESIDE = {
    "checkpoint", "config", "definitions", "numbers", "plots", "results", "run", "video", "widgets", "workers"
}  # fmt: skip


class Source:
    """The top-level statements of one file that bind names: imports, functions, classes and UPPER_CASE constants.

    binders: name -> the numbers of the statements that bind it, in their order. docstring: the file's own.
    """

    def __init__(self, text: str, path: str) -> None:
        tree = ast.parse(text, path)
        self.path, self.docstring = path, ast.get_docstring(tree)
        self.statements = tree.body
        self.binders: dict[str, list[int]] = {}
        for i, statement in enumerate(tree.body):
            for name in _bound(statement, upper_case=Path(path).stem.startswith("ch")):
                self.binders.setdefault(name, []).append(i)

    @functools.cache  # noqa: B019  (a handful of files)
    def used(self, i: int) -> frozenset[str]:
        """Every name that statement ``i`` reads, its own parameters and local variables left out."""
        module = ast.Module([self.statements[i]], type_ignores=[])
        return frozenset(_global_names(compile(module, self.path, "exec")))

    def reached_from(self, name: str) -> list[int]:
        """The statements that ``name`` needs, itself included, in the file's order."""
        found: set[int] = set()
        todo = [name]
        while todo:
            for i in self.binders.get(todo.pop(), ()):
                if i not in found:
                    found.add(i)
                    todo += self.used(i)
        return sorted(found)


class Chapter(ModuleType):
    """A chapter as a module that runs a definition, and what it needs, when it is first asked for.

    So a chapter can lend one function to another although packages that its other functions import are missing.
    """

    def __init__(self, path: Path) -> None:
        source = Source(path.read_text(encoding="utf8"), str(path))
        super().__init__(LOADED + path.stem, source.docstring)
        self.__file__ = str(path)
        self.__dict__["_source"], self.__dict__["_ran"] = source, set()
        for i, statement in enumerate(source.statements):
            if isinstance(statement, ast.Expr) and "register_envs" in ast.unparse(statement):
                with contextlib.suppress(
                    ImportError
                ):  # the package that makes them known to Gymnasium
                    for name in source.used(i):
                        getattr(self, name)

    def __getattr__(self, name: str) -> object:
        source, ran = self.__dict__["_source"], self.__dict__["_ran"]
        if name not in source.binders:
            raise AttributeError(f"{Path(source.path).name} defines no {name!r}.")
        sys.modules[self.__name__] = self  # dataclasses look their module up while they are made
        try:
            for i in source.reached_from(name):
                if i not in ran:
                    code = ast.Module([source.statements[i]], type_ignores=[])
                    exec(compile(code, source.path, "exec"), self.__dict__)
                    ran.add(i)
        finally:
            sys.modules.pop(self.__name__, None)
        return self.__dict__[name]

    def __reduce__(self) -> tuple:
        return load_chapter, (Path(self.__file__).stem,)  # a worker process reads the file itself

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._source.binders})


@functools.cache
def load_chapter(name: str) -> Chapter:
    """The imports, functions, classes and UPPER_CASE constants of ``chapters/<name>.py`` as a module.

    Nothing else of the chapter runs, and each of them only once it is asked for. The module stays out of
    ``sys.modules``, so that cloudpickle sends what it defines to worker processes by value, as from a notebook.
    Raises FileNotFoundError, naming the chapters there are.
    """
    path = CHAPTERS / f"{name}.py"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in CHAPTERS.glob("ch*.py")))
        raise FileNotFoundError(f"There is no chapter {name!r}; there are: {known}.")
    return Chapter(path)


def fingerprint(function: Callable, config: object = None, root: Path = ROOT) -> str:
    """A hash of the definitions that a measurement reaches; comments, docstrings and layout do not count.

    function: a chapter's ``measure``. config: what it is called with; its class counts. From there the definitions
    are followed by name, through other chapters and the package's modules except those in ``BESIDE``. root: the
    book's folder, which may be another version of it. Raises LookupError where a definition is not there.
    """
    function = getattr(function, "func", function)
    wanted = [(f"chapters/{Path(function.__code__.co_filename).name}", function.__name__)]
    if config is not None:  # its class may be another chapter's
        kind = type(config)
        wanted.append((f"chapters/{kind.__module__.removeprefix(LOADED)}.py", kind.__name__))
    return fingerprint_of(wanted, lambda path: (root / path).read_text(encoding="utf8"))


def fingerprint_of(wanted: list[tuple[str, str]], read: Callable[[str], str]) -> str:
    """``fingerprint`` for definitions by file and name; ``read`` gives the text of one of the book's files."""
    sources: dict[str, Source] = {}
    seen: set[tuple[str, int]] = set()
    asked: set[tuple[str, str]] = set()
    todo = list(wanted)
    while todo:
        path, name = todo.pop()
        if (path, name) in asked:
            continue
        asked.add((path, name))
        if path not in sources:
            sources[path] = _source(read(path), path)
        source = sources[path]
        if name not in source.binders:
            raise LookupError(f"{path} defines no {name!r}.")
        for i in source.binders[name]:
            seen.add((path, i))
            todo += ((path, used) for used in source.used(i) if used in source.binders)
            todo += _elsewhere(source, source.statements[i], name)
    texts = [
        f"{path}: {_plain(sources[path].statements[i])}"
        for path, i in sorted(seen)
        if not isinstance(sources[path].statements[i], ast.Import | ast.ImportFrom)
    ]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


@functools.lru_cache(64)
def _source(text: str, path: str) -> Source:
    return Source(text, path)


def _bound(statement: ast.stmt, upper_case: bool) -> Iterator[str]:
    """The names that a statement binds, where it is one of those that a loaded chapter keeps."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield (alias.asname or alias.name).partition(".")[0]
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        flat = [t for target in targets for t in getattr(target, "elts", [target])]
        names = [target.id for target in flat if isinstance(target, ast.Name)]
        if len(names) == len(flat) and (all(map(str.isupper, names)) or not upper_case):
            yield from names


def _global_names(code: object) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
            yield instruction.argval
    for constant in code.co_consts:
        if hasattr(constant, "co_code"):
            yield from _global_names(constant)


def _elsewhere(source: Source, statement: ast.stmt, name: str) -> Iterator[tuple[str, str]]:
    """The definitions of other files that ``name`` stands for: in the package, or in a chapter it has loaded."""
    if isinstance(statement, ast.ImportFrom):
        package, _, module = (statement.module or "").partition(".")
        if package == PACKAGE and module and module not in BESIDE:
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    yield f"{PACKAGE}/{module}.py", alias.name
    for node in ast.walk(statement):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        if chapter := _loaded_chapter(source, node.value.id):
            yield f"chapters/{chapter}.py", node.attr


def _loaded_chapter(source: Source, name: str) -> str | None:
    """The chapter that ``NAME = load_chapter("…")`` stands for, alone or in a tuple."""
    for i in source.binders.get(name, ()):
        statement = source.statements[i]
        if not isinstance(statement, ast.Assign):
            continue
        target, value = statement.targets[0], statement.value
        pairs = zip(
            getattr(target, "elts", [target]), getattr(value, "elts", [value]), strict=False
        )
        for one, call in pairs:
            if (
                one.id == name
                and isinstance(call, ast.Call)
                and ast.unparse(call.func) == "load_chapter"
            ):
                return call.args[0].value
    return None


class _Bare(ast.NodeTransformer):
    """Takes out what no measurement can feel: docstrings, the ranges of a config's fields and its checks."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = [part for part in node.body if getattr(part, "name", "") != "__post_init__"]
        return self.visit_FunctionDef(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
        if node.body and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return node.args[0] if ast.unparse(node.func) == "knob" else node


def _plain(statement: ast.stmt) -> str:
    """A statement bare and without layout, spelt alike by Python 3.11 and 3.12."""
    return ast.dump(_Bare().visit(copy.deepcopy(statement))).replace(", type_params=[]", "")
