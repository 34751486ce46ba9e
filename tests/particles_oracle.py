"""The old engine's spread, tag and world in NumPy, float64, one body at a time: written from the equations alone."""

from __future__ import annotations

from typing import Any

import numpy as np

DT, DAMPING, STIFFNESS, MARGIN = 0.1, 0.25, 100.0, 1e-3

BODIES = {
    "spread": {"size": [0.15] * 3, "accel": [None] * 3, "top": [None] * 3, "solid": []},
    "tag": {"size": [0.075] * 3 + [0.05], "accel": [3.0] * 3 + [4.0], "top": [1.0] * 3 + [1.3], "solid": [0.2] * 2},
    "world": {"size": [0.075] * 3 + [0.045], "accel": [3.0] * 3 + [4.0], "top": [1.0] * 3 + [1.3], "solid": [0.2]},
}
"""Sizes, accelerations and largest speeds of the bodies, and sizes of the landmarks that they collide with."""

FOOD, FORESTS = slice(1, 3), slice(3, 5)


def push_of(action: Any) -> np.ndarray:
    """Direction of an integer action (1 is +x) or of a vector."""
    if np.ndim(action) == 0:
        return np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], float)[int(action)]
    return np.asarray(action, float)


def repulsion(first: np.ndarray, second: np.ndarray, reach: float) -> np.ndarray:
    """Force on `first` from `second`."""
    away = first - second
    distance = np.linalg.norm(away)
    return STIFFNESS * away / distance * np.logaddexp(0, -(distance - reach) / MARGIN) * MARGIN


def step(
    name: str, position: np.ndarray, velocity: np.ndarray, landmark: np.ndarray, actions: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Next positions and velocities of all bodies."""
    bodies = BODIES[name]
    new_position, new_velocity = np.array(position, float), np.array(velocity, float)
    for i, size in enumerate(bodies["size"]):
        accel = bodies["accel"][i]
        force = push_of(actions[i]) * (5.0 if accel is None else accel * accel)
        for j, other in enumerate(bodies["size"]):
            if j != i:
                force = force + repulsion(position[i], position[j], size + other)
        for place, wall in zip(landmark, bodies["solid"], strict=False):
            force = force + repulsion(position[i], place, size + wall)
        moving = velocity[i] * (1 - DAMPING) + force * DT
        top = bodies["top"][i]
        if top is not None and np.linalg.norm(moving) > top:
            moving = moving / np.linalg.norm(moving) * top
        new_velocity[i], new_position[i] = moving, position[i] + moving * DT
    return new_position, new_velocity


def leaving(z: float) -> float:
    """Penalty of one coordinate."""
    if z < 0.9:
        return 0.0
    return 10 * (z - 0.9) if z < 1 else min(np.exp(2 * z - 2), 10.0)


def rewards(name: str, position: np.ndarray, landmark: np.ndarray) -> list[float]:
    """Rewards of all bodies in a state."""
    size = BODIES[name]["size"]

    def gap(first: np.ndarray, second: np.ndarray) -> float:
        return float(np.linalg.norm(first - second))

    if name == "spread":
        found = 0.0
        for place in landmark:
            nearest = min(gap(body, place) for body in position)
            found += 10.0 if nearest <= 0.1 else 1 / nearest
        return [found - 5 * sum(gap(position[i], position[j]) < 0.3 for j in range(3) if j != i) for i in range(3)]
    hunters, prey, gain = position[:3], position[3], 10 if name == "tag" else 5
    caught = sum(gap(hunter, prey) < size[0] + size[3] for hunter in hunters)
    shaping = 0.1 * sum(gap(hunter, prey) for hunter in hunters)
    edge = leaving(abs(prey[0])) + leaving(abs(prey[1]))
    flight = shaping - gain * caught - (1 if name == "tag" else 2) * edge
    if name == "world":
        meals = [gap(prey, place) for place in landmark[FOOD]]
        flight += 2 * sum(meal < size[3] + 0.03 for meal in meals) + 0.05 * min(meals)
    return [gain * caught - shaping] * 3 + [flight]


def view(name: str, position: np.ndarray, velocity: np.ndarray, landmark: np.ndarray, i: int) -> np.ndarray:
    """What body i sees, without padding."""
    others = [j for j in range(len(position)) if j != i]
    seen = [velocity[i], position[i], *(place - position[i] for place in landmark)]
    seen += [position[j] - position[i] for j in others]
    if name == "spread":
        return np.concatenate([*seen, np.zeros(4)])
    if i < 3:
        seen.append(velocity[3])
    if name == "world":
        reach = BODIES[name]["size"][i] + 0.3
        seen.append(np.array([1.0 if np.linalg.norm(position[i] - f) < reach else -1.0 for f in landmark[FORESTS]]))
    return np.concatenate(seen)
