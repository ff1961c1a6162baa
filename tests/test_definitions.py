"""The loader: a definition runs with what it needs, and nothing else does."""

import subprocess
import sys

import cloudpickle
import pytest

from rlbook_utils.definitions import fingerprint, fingerprint_of, load_chapter

TOY = """
import math
import not_installed
LIMIT, OTHER = 3, 4
LIMIT += 1
print('never')
value = 1 / 0
def root(x):
    return math.sqrt(x) + LIMIT
def helper(limit):
    root = limit  # a local name, not the function above
    return root
class Needs(not_installed.Base):
    pass
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "ch99_x.py").write_text(TOY)
    monkeypatch.setattr("rlbook_utils.definitions.CHAPTERS", tmp_path)
    yield load_chapter("ch99_x")
    load_chapter.cache_clear()


def test_loader_runs_definitions_only(toy, capsys):
    assert toy.root(4) == 6 and toy.OTHER == 4 and not hasattr(toy, "value")
    assert capsys.readouterr().out == "" and {"root", "LIMIT", "Needs"} <= set(dir(toy))
    code = "import sys, pickle; print(pickle.load(sys.stdin.buffer)(4))"
    sent = cloudpickle.dumps(toy.root)
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert done.stdout.strip() == b"6.0"
    with pytest.raises(FileNotFoundError, match="no chapter 'ch98'; there are: ch99_x"):
        load_chapter("ch98")


def test_a_chapter_that_another_has_loaded_travels_to_worker_processes():
    other = load_chapter("ch00_foundations")
    sent = cloudpickle.dumps(lambda size: sum(p.numel() for p in other.mlp(size, 3).parameters()))
    code = "import sys, pickle; print(pickle.load(sys.stdin.buffer)(4))"
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert done.stdout.strip() == b"15"


def test_a_missing_package_stops_only_what_needs_it(toy):
    assert toy.root(9) == 7
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        _ = toy.Needs
    with pytest.raises(AttributeError, match=r"ch99_x\.py defines no 'missing'"):
        _ = toy.missing


def test_what_is_replaced_stays_replaced(toy, monkeypatch):
    monkeypatch.setattr(toy, "LIMIT", 100)
    assert toy.root(4) == 102


@pytest.mark.slow
def test_chapters_do_without_packages_that_only_another_needs():
    blocked = ("ray", "stable_baselines3", "gymnasium_robotics")
    code = f"""
import sys
for name in {blocked}:
    sys.modules[name] = None
from rlbook_utils.definitions import load_chapter
load_chapter("ch03b_mario").train_curious, load_chapter("ch03_curiosity").train_sparse
load_chapter("ch06_policy_optimisation").train_ppo, load_chapter("ch06_policy_optimisation").train_body
load_chapter("ch01_evolution").evolve, load_chapter("ch00_foundations").train_dqn
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_fingerprint_follows_what_is_reached_and_nothing_else():
    def of(text):
        return fingerprint_of([("chapters/ch99_x.py", "root")], lambda path: text)

    assert of(TOY) == of(TOY.replace("limit", "bound").replace("value = 1", "value = 2"))
    assert of(TOY) == of(TOY.replace("    return math", "    # why\n\n    return math"))
    assert of(TOY) != of(TOY.replace("LIMIT += 1", "LIMIT += 2"))
    with pytest.raises(LookupError, match="defines no 'root'"):
        of(TOY.replace("def root", "def boot"))


def test_a_fingerprint_reaches_other_chapters_and_the_package():
    files = {
        "chapters/ch99_x.py": """
from rlbook_utils.rollout import spread as apart, other
from rlbook_utils.plots import bands
ELSEWHERE, MORE = load_chapter("ch98_y"), 3
def measure(config, seed):
    bands()
    return ELSEWHERE.work(apart(seed))
""",
        "chapters/ch98_y.py": "def work(x):\n    return x\ndef idle(x):\n    return x\n",
        "rlbook_utils/rollout.py": "kind = 1\ndef spread(x):\n    return x + kind\ndef other(x):\n    return x\n",
        "rlbook_utils/plots.py": "def bands():\n    pass\n",
    }

    def of(**changes):
        changed = {
            path: text.replace(*changes.get(path.split("/")[1][:4], ("", "")))
            for path, text in files.items()
        }
        return fingerprint_of([("chapters/ch99_x.py", "measure")], changed.__getitem__)

    assert of() != of(ch98=("return x\ndef", "return -x\ndef"))
    assert of() != of(roll=("kind = 1", "kind = 2"))
    assert of() == of(roll=("def other(x):\n    return x", "def other(x):\n    return -x"))
    assert of() == of(ch98=("def idle(x):\n    return x", "def idle(x):\n    return -x"))
    assert of() == of(plot=("pass", "return 1"))


def test_fingerprints_of_the_book_stand_still():
    chapter = load_chapter("ch01_evolution")
    first = fingerprint(chapter.measure_strings, chapter.StringConfig())
    assert (
        first == fingerprint(chapter.measure_strings, chapter.StringConfig()) and len(first) == 16
    )


def test_a_config_may_be_another_chapters():
    measure, config = (
        load_chapter("ch07b_minipacman").measure_speed,
        load_chapter("ch01_evolution").StringConfig,
    )
    assert fingerprint(measure, config()) != fingerprint(measure)
