"""Checkpoints: a nested state and whose it is, in one safetensors file that is never half written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: it is missing, corrupt, or belongs to something else."""


def save_checkpoint(
    path: str | Path,
    state: dict,
    *,
    config: Any = None,
    seed: int | None = None,
    history: dict | None = None,
) -> None:
    """Write a nested dict of arrays, tensors and plain values as one safetensors file, atomically.

    Arrays become tensors in the file; everything else, the config and the history stand in its JSON header.
    """
    arrays: dict[str, torch.Tensor] = {}
    header = {
        "state": _pull(state, arrays),
        "owner": _describe(config, seed),
        "history": history,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    save_file(arrays, draft, metadata={"rlbook": json.dumps(header)})
    draft.replace(path)


def load_checkpoint(path: str | Path, config: Any = None, seed: int | None = None) -> dict:
    """Read what ``save_checkpoint`` wrote: {"state", "history"}; arrays come back as NumPy arrays.

    config, seed: when given, a checkpoint written for others is refused. Raises CheckpointError.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["rlbook"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except KeyError:
        raise CheckpointError(
            f"{path} is a safetensors file, but not one that this book wrote."
        ) from None
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({error}); delete it to start afresh."
        ) from None
    wanted, stored = _describe(config, seed), header["owner"]
    others = [name for name, value in wanted.items() if stored.get(name) != value]
    if others:
        said = ", ".join(
            f"{name}: {stored.get(name)!r} there, {wanted[name]!r} here" for name in others
        )
        raise CheckpointError(f"{path} belongs to another run ({said}); delete it to start afresh.")
    return {"state": _push(header["state"], arrays), "history": header["history"]}


def resume(path: str | Path, config: Any = None, seed: int | None = None) -> dict | None:
    """The state in the checkpoint at ``path``, or None where there is none yet. Raises CheckpointError."""
    return load_checkpoint(path, config, seed)["state"] if Path(path).exists() else None


def as_tensors(state: Any) -> Any:
    """A nested state with its arrays and tensors as fresh tensors: what ``load_state_dict`` takes, an optimiser keeps."""
    if isinstance(state, np.ndarray | torch.Tensor):
        return torch.as_tensor(state).clone()
    if isinstance(state, dict):
        return {key: as_tensors(item) for key, item in state.items()}
    return [as_tensors(item) for item in state] if isinstance(state, list) else state


def random_state(rng: np.random.Generator | None = None) -> dict:
    """What the random numbers to come depend on: torch's global generator, and ``rng`` where one is used."""
    state = {"torch": torch.get_rng_state()}
    return state | {"numpy": rng.bit_generator.state} if rng is not None else state


def restore_random(state: dict, rng: np.random.Generator | None = None) -> None:
    """Put back what ``random_state`` took, fresh or from a checkpoint: the same numbers follow."""
    torch.set_rng_state(torch.as_tensor(state["torch"]))
    if rng is not None:
        rng.bit_generator.state = state["numpy"]


def _describe(config: Any, seed: int | None) -> dict:
    fields = {"seed": seed} if seed is not None else {}
    if config is not None:
        fields |= {"config": type(config).__name__, **dataclasses.asdict(config)}
    return json.loads(json.dumps(fields))


def _pull(value: Any, arrays: dict[str, torch.Tensor]) -> Any:
    """Replace each array in a nested value by a reference to its place in the file."""
    if isinstance(value, torch.Tensor | np.ndarray):
        name = f"{len(arrays):04d}"
        tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
        arrays[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"__array__": name}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return {"__items__": [[_pull(k, arrays), _pull(v, arrays)] for k, v in value.items()]}
        return {key: _pull(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pull(item, arrays) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _push(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if "__array__" in value:
            return arrays[value["__array__"]]
        if "__items__" in value:
            return {_push(k, arrays): _push(v, arrays) for k, v in value["__items__"]}
        return {key: _push(item, arrays) for key, item in value.items()}
    return [_push(item, arrays) for item in value] if isinstance(value, list) else value
