"""Oracles of chapter 04's exercises on lattices."""

import numpy as np

from rlbook_utils.exercises import Wrong


def mean_actions(answer):
    """M4.1: the mean action of eight neighbours, against a slow loop."""
    rng = np.random.default_rng(0)
    for side in (10, 5):
        grid = rng.integers(2, size=(side, side))
        found = np.asarray(answer(grid.copy()), float)
        if found.shape != (side, side, 2):
            raise Wrong(
                f"For {side} x {side} cells it has to be [{side}, {side}, 2]; yours has the shape {found.shape}."
            )
        expected = np.zeros((side, side, 2))
        for row in range(side):
            for column in range(side):
                for down in (-1, 0, 1):
                    for right in (-1, 0, 1):
                        if (down, right) != (0, 0):
                            action = grid[(row + down) % side, (column + right) % side]
                            expected[row, column, action] += 1 / 8
        if np.allclose(found, expected):
            continue
        if np.allclose(found, expected[..., ::-1]):
            raise Wrong("The share of down (action 0) comes first, then that of up.")
        if not np.allclose(found.sum(-1), 1):
            raise Wrong("The two shares of a cell have to add up to 1.")
        if np.allclose(found[1:-1, 1:-1], expected[1:-1, 1:-1]):
            raise Wrong(
                "Inside it is right. Look at the edges: the first row's upper neighbours are in the last row."
            )
        raise Wrong("Look at who counts: the eight cells around, and not the cell itself.")


def specific_heat(answer):
    """M4.2: the specific heat from samples of the energy per spin."""
    rng = np.random.default_rng(1)
    for temperature, spins in ((1.2, 256), (0.9, 64)):
        energies = -1.5 + 0.1 * rng.standard_normal(5000)
        mean = sum(energies) / len(energies)
        variance = sum((energies - mean) ** 2) / len(energies)
        expected = spins * variance / (2 * temperature) ** 2
        found = float(answer(energies.copy(), temperature, spins))
        if np.isclose(found, expected, rtol=1e-3):
            continue
        if np.isclose(found, 4 * expected, rtol=1e-3):
            raise Wrong("Whose temperature is it? Ising's T is twice the policy's.")
        if np.isclose(found * spins, expected, rtol=1e-3):
            raise Wrong(
                "The samples are energies per spin: their variance shrinks with the number of spins."
            )
        raise Wrong(
            "It is the variance of the energy per spin, times the spins, over Ising's temperature squared."
        )


def self_consistent(answer):
    """M4.4: the mean-field magnetisation, against a bisection."""
    for temperature in (0.6, 1.2, 1.9):
        low, high = 1e-6, 1.0  # tanh(2 m / τ) - m is above 0 at the one and below at the other
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if np.tanh(2 * middle / temperature) > middle else (low, middle)
            )
        found = float(answer(temperature))
        if np.isclose(found, low, atol=1e-3):
            continue
        if abs(found) < 1e-3:
            raise Wrong(
                "m = 0 always solves it. Below the melting point there is a larger solution."
            )
        if np.isclose(found, -low, atol=1e-3):
            raise Wrong("The largest solution is asked for: the other direction.")
        raise Wrong(f"At τ = {temperature} it should be {low:.3f}; yours is {found:.3f}.")
    if not abs(float(answer(2.5))) <= 1e-3:
        raise Wrong("At τ = 2.5 the curves tanh(2 m / τ) and m meet at 0 only.")


def triangular_steps(answer):
    """M5.1: six steps on a square array that make it a triangular lattice."""
    steps = {tuple(int(by) for by in step) for step in answer}
    if len(steps) != 6 or len(list(answer)) != 6 or any(len(step) != 2 for step in steps):
        raise Wrong("It takes six different pairs (rows, columns).")
    if (0, 0) in steps or any((-down, -right) not in steps for down, right in steps):
        raise Wrong(
            "If b is a neighbour of a, then a is one of b: with each step its opposite, and no cell is its own neighbour."
        )
    if any(max(abs(by) for by in step) > 1 for step in steps):
        raise Wrong("Neighbours touch: no step is longer than one row and one column.")
    shared = [sum((a - c, b - d) in steps for c, d in steps) for a, b in steps]
    if set(shared) != {2}:
        raise Wrong("In a triangular lattice two neighbours always have two neighbours in common.")


EXERCISES = {
    "M4.1": mean_actions,
    "M4.2": specific_heat,
    "M4.4": self_consistent,
    "M5.1": triangular_steps,
}
