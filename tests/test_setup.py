"""The house itself: the set-up's files agree with each other, and what is committed is complete, light and clean."""

import ast
import importlib.metadata
import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rlbook_utils import front, notebooks
from rlbook_utils.definitions import CHAPTERS

ROOT = CHAPTERS.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
SCRIPTS = sorted(CHAPTERS.glob("ch*.py"))
NOTEBOOKS = [pytest.param(path, id=path.stem) for path in sorted(CHAPTERS.glob("*.ipynb"))]
MB = 2**20

# A machine's own paths, and hosts that packages come from. (Each pattern is spelt so that it does not match itself.)
UNWANTED = re.compile(
    r"(?<![\w./:~$}-])/(?:root|home|tmp|work|Users)(?:/|\b)"
    r"|pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|yarnpkg\.com|anaconda\.(?:org|com)|download\.pytorch\.org"
)
BASE64 = re.compile(r"[A-Za-z0-9+/=]{200,}")


def tracked() -> list[Path]:
    """The files that a commit of everything here would hold."""
    git = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if git.returncode:
        pytest.skip(
            "This is not a git repository, so there is no telling which files belong to it."
        )
    return [path for name in git.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def locked() -> dict[str, Requirement]:
    text = (ROOT / "requirements.lock").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def test_conda_users_get_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    extras = ",".join(sorted(PROJECT["optional-dependencies"]))
    assert pip == ["--constraint requirements.lock", f"--editable .[{extras}]"]


def test_lock_pins_exact_versions_without_local_suffixes():
    for name, requirement in locked().items():
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)) and not requirement.url, name


def test_lock_satisfies_pyproject_and_names_everything_that_follows_from_it():
    pins = locked()
    for text in ASKED:
        wanted = Requirement(text)
        (pin,) = pins[canonicalize_name(wanted.name)].specifier
        assert wanted.specifier.contains(pin.version), text
    asked = map(Requirement, ASKED)
    todo, seen = [r for r in asked if r.marker is None or r.marker.evaluate()], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or name.startswith(
            ("nvidia-", "cuda-", "triton")
        ):  # only torch's CUDA build asks for these
            continue
        seen.add(name)
        assert name in pins, f"requirements.lock lacks {name}"
        for line in importlib.metadata.requires(name) or []:
            follows = Requirement(line)
            if follows.marker is None or any(
                follows.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)
            ):
                todo.append(follows)


def test_marios_game_comes_alone_and_in_one_version():
    """Its package would bring another emulator, which has to be compiled; so no lock and no project may name it."""
    files = "Makefile", "environment.yml", "rlbook_utils/mario.py"
    installs = [
        re.findall(r"(\S+) gym-super-mario-bros==([\d.]+)", (ROOT / name).read_text())
        for name in files
    ]
    assert [len(found) for found in installs] == [1, 1, 1]
    assert {version for ((_, version),) in installs} == {"7.4.0"}
    assert {flag for ((flag, _),) in installs} == {"--no-deps"}
    assert not [text for text in (*ASKED, *locked()) if text.startswith("gym-super-mario")]
    told = re.findall(r"stable-retro(==[\d.]+)", (ROOT / files[-1]).read_text())
    assert told == [str(locked()["stable-retro"].specifier)]


def test_every_import_comes_from_a_locked_package():
    pins = locked()
    providers = importlib.metadata.packages_distributions()
    own = {"rlbook_utils", "conftest", *(path.stem for path in tracked() if path.suffix == ".py")}
    for path in [path for path in tracked() if path.suffix == ".py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                modules = (
                    [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
                )
            for module in (
                {name.partition(".")[0] for name in modules} - own - sys.stdlib_module_names
            ):
                names = map(canonicalize_name, providers.get(module, [module]))
                assert any(name in pins for name in names), (
                    f"{path.relative_to(ROOT)} imports {module}, which is not locked"
                )


def test_no_file_names_a_machine_or_a_package_host():
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf8")
        except UnicodeDecodeError:
            continue
        if path.suffix == ".ipynb":
            text = BASE64.sub("", text.replace("\\n", "\n"))
        for match in UNWANTED.finditer(text):
            found.append(
                f"{path.relative_to(ROOT)}: …{text[max(match.start() - 30, 0) : match.end() + 20]!r}"
            )
    assert not found


@pytest.mark.parametrize(
    "text", ["see |root|x", "'|home|ann'", "|tmp|a", "(|work)", "https:||pypi*org|simple"]
)
def test_the_pattern_finds_machines_and_hosts(text):
    assert UNWANTED.search(text.replace("|", "/").replace("*", "."))


@pytest.mark.parametrize(
    "text", ["https://example.org/home/page", "work/play", "./tmp/x", "$HOME/root", "homework"]
)
def test_the_pattern_lets_other_text_pass(text):
    assert not UNWANTED.search(text)


def test_sizes():
    files = tracked()
    large = [
        path.name for path in files if path.suffix == ".ipynb" and path.stat().st_size > 3 * MB
    ]
    large += [
        p.name
        for p in files
        if p.suffix in {".safetensors", ".npz", ".pt", ".pth"} and p.stat().st_size > 2 * MB
    ]
    assert not large
    objects = subprocess.run(
        ["git", "rev-list", "--objects", "HEAD"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    pack = subprocess.run(
        ["git", "pack-objects", "--stdout", "-q"],
        cwd=ROOT,
        input=objects,
        capture_output=True,
        check=True,
    ).stdout  # what a clone is sent, however the objects lie here
    assert len(pack) + sum(path.stat().st_size for path in files) <= 150 * MB


def test_the_package_stays_small():
    assert (
        sum(
            len(path.read_text(encoding="utf8").splitlines())
            for path in (ROOT / "rlbook_utils").glob("*.py")
        )
        < 2500
    )


def test_every_chapter_is_a_pair():
    if not SCRIPTS:
        pytest.skip("There is no chapter yet.")
    assert [path.stem for path in sorted(CHAPTERS.glob("*.ipynb"))] == [
        path.stem for path in SCRIPTS
    ]


@pytest.mark.parametrize("path", SCRIPTS)
def test_no_line_of_prose_is_taken_for_a_magic(path):
    """jupytext drops a Markdown line that begins with a lone percent sign."""
    lines = path.read_text(encoding="utf8").splitlines()
    assert not [line for line in lines if line.startswith("# % ")]


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebook_and_script_are_in_step(path):
    stored, script = (
        nbformat.read(path, as_version=4),
        notebooks.read_script(path.with_suffix(".py")),
    )
    stored, script = (
        [(cell.cell_type, cell.source.strip()) for cell in book.cells] for book in (stored, script)
    )
    assert stored == script, "run `make notebooks`"


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_jupytext_finds_the_pair_equal(path):
    """Else JupyterLab refuses to open the notebook, depending on which file is the younger."""
    written = jupytext.writes(nbformat.read(path, as_version=4), fmt="py:percent")
    script = path.with_suffix(".py").read_text(encoding="utf8")
    assert written.split("# ---\n")[-1] == script.split("# ---\n")[-1], "run `make notebooks`"


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_outputs_belong_to_the_code(path):
    stored = nbformat.read(path, as_version=4)
    ran = stored.metadata["rlbook"]
    assert ran["code_hash"] == notebooks.code_hash(stored), (
        "the code changed after it ran: run `make notebooks`"
    )
    assert ran["budget"] == "laptop"
    for cell in stored.cells:
        if cell.cell_type == "code" and cell.source.strip():
            assert cell.execution_count is not None, f"never run: {cell.source[:80]}"
            assert not any(output.output_type == "error" for output in cell.outputs), (
                f"stored error: {cell.source[:80]}"
            )


def test_make_has_its_targets_and_the_readme_explains_them():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    for name in ("lab", "test", "check", "book", "notebooks", "results", "bench", "faults"):
        assert name in targets and f"`make {name}`" in readme, name


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and re.search(r"^make test", script.read_text(), re.M)


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    assert (
        citation["cff-version"] == "1.2.0"
        and citation["message"]
        and citation["title"]
        and citation["authors"]
    )
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_readme_table_is_up_to_date():
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    assert front.with_table(readme) == readme, "run `make notebooks`"
    assert not [line for line in front.readme_table().splitlines() if "| — |" in line], (
        "a chapter lacks its time, memory or HEADLINE"
    )


def test_readme_pictures_exist():
    for name in re.findall(
        r"!\[.*?\]\((.+?)\)", (ROOT / "README.md").read_text(encoding="utf8"), re.S
    ):
        if not SCRIPTS:
            pytest.skip("There is no chapter to take a picture of yet.")
        assert (ROOT / name).is_file(), name
