"""Checking a reader's answer to an exercise.

The oracles stand in ``tests/exercises``, one file a chapter, where the tests hold them against the chapters' solutions.
"""

import importlib.util
from collections.abc import Callable
from functools import cache

from rlbook_utils.definitions import ROOT

ORACLES = ROOT / "tests" / "exercises"


class Wrong(Exception):
    """An answer is not right; the text is the one hint that the reader gets."""


@cache
def oracles() -> dict[str, Callable[[object], None]]:
    """Exercise -> the function that raises ``Wrong`` for an answer that is not right, for all chapters."""
    found: dict[str, Callable[[object], None]] = {}
    for path in sorted(ORACLES.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"exercises_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found |= module.EXERCISES
    return found


def check(exercise: str, answer: object) -> None:
    """Say whether ``answer`` (mostly a function) is right, or give one hint. Raises KeyError for an unknown exercise."""
    if exercise not in oracles():
        raise KeyError(f"There is no exercise {exercise!r}; there are: {', '.join(oracles())}.")
    try:
        oracles()[exercise](answer)
    except Wrong as hint:
        print(f"{exercise}: not yet. {hint}")
    except Exception as error:  # the reader's own code failed
        print(f"{exercise}: not yet. Your answer raises {type(error).__name__}: {error}")
    else:
        print(f"{exercise}: right.")
