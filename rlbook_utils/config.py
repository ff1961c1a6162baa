"""Budgets and the ranges of a config's fields. Light to import: worker processes need it too."""

import dataclasses
import os
from collections.abc import Collection
from typing import Any, TypeVar

BUDGETS = ("smoke", "laptop", "full")
T = TypeVar("T")


def budget() -> str:
    """The budget named by ``RLBOOK_BUDGET``: "smoke", "laptop" (the default) or "full"."""
    name = os.environ.get("RLBOOK_BUDGET", "laptop")
    if name not in BUDGETS:
        raise ValueError(f"RLBOOK_BUDGET is {name!r}; it has to be one of {', '.join(BUDGETS)}.")
    return name


def by_budget(smoke: T, laptop: T) -> T:
    """``smoke`` at the smoke budget, else ``laptop``: at ``full`` a notebook draws on `make results`."""
    return smoke if budget() == "smoke" else laptop


def knob(default: float, low: float, high: float, help: str, *, step: float | None = None) -> Any:
    """A config field with its range: the panel makes a slider of it, ``check_config`` guards it.

    low, high: the inclusive range, in the field's own units. help: one line for the reader.
    step: the slider's step (default: 1 for whole numbers, a hundredth of the range otherwise).
    """
    return dataclasses.field(
        default=default, metadata={"low": low, "high": high, "help": help, "step": step}
    )


def choice(default: str, options: Collection[str]) -> Any:
    """A config field that takes one of a few names, as ``options`` holds them then; ``check_config`` guards it."""
    return dataclasses.field(default=default, metadata={"options": options})


def check_config(config: Any) -> None:
    """Raise ValueError, in one sentence, for the first field that its ``knob`` or ``choice`` does not allow."""
    for field in dataclasses.fields(config):
        options = field.metadata.get("options")
        if options and getattr(config, field.name) not in options:
            raise ValueError(
                f"{type(config).__name__}.{field.name} is {getattr(config, field.name)!r}; "
                f"it has to be one of {', '.join(options)}."
            )
        if "low" in field.metadata:
            value, low, high = (
                getattr(config, field.name),
                field.metadata["low"],
                field.metadata["high"],
            )
            if not low <= value <= high:
                raise ValueError(
                    f"{type(config).__name__}.{field.name} is {value}; it has to lie between {low} and {high}."
                )
            if field.type in (int, "int") and value != int(value):
                raise ValueError(
                    f"{type(config).__name__}.{field.name} is {value}; it has to be a whole number."
                )
