"""Checks of randomness: everything follows from the key, and no key is used twice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from marl_bench.checks.probe import Probe
from marl_bench.checks.trees import describe, is_key, leaves_by_path, same

_NUM_KEYS = 16
_DRAWS = {"random_bits", "threefry2x32", "rng_bit_generator", "random_gamma"}


def is_deterministic(probe: Probe) -> Iterator[str]:
    """The same key and actions give bitwise the same result twice."""
    first, second = probe.plays
    for index, (before, after) in enumerate(zip(first, second, strict=False)):
        path = same(before, after, exact=True)
        if path is not None:
            where = {"[0]": "state", "[1]": "timestep"}.get(path[:3], "") + path[3:]
            yield (
                f"{'step' if index else 'reset'}: the same key and actions give another {where} the second time; use "
                "jax.random with the key, not Python's or NumPy's randomness, the clock or a counter"
            )
            return


def reset_uses_its_key(probe: Probe) -> Iterator[str]:
    """If `reset` draws random numbers, different keys give different episodes."""
    if not probe.draws("reset") & _DRAWS:
        return
    outcomes = [_without_keys(probe.run("reset", probe.key(1000 + index))) for index in range(_NUM_KEYS)]
    if all(same(outcomes[0], other, exact=True) is None for other in outcomes[1:]):
        yield (
            f"reset: draws random numbers, but {_NUM_KEYS} different keys give the same episode; draw from the key "
            "that reset is given"
        )


def _without_keys(tree: Any) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in leaves_by_path(tree).items() if not _holds_key(path, leaf)}


def _keys(tree: Any) -> dict[str, Any]:
    return {path: leaf for path, leaf in leaves_by_path(tree).items() if _holds_key(path, leaf)}


def _holds_key(path: str, leaf: Any) -> bool:
    """A typed key, or a raw one (uint32 [2]) in a field that says so."""
    return is_key(leaf) or ("key" in path and getattr(leaf, "dtype", None) == np.uint32)


def step_moves_its_key(probe: Probe) -> Iterator[str]:
    """If `step` draws random numbers, the state has a key and the next step draws other numbers."""
    used = probe.draws("step")
    if not used & _DRAWS:
        return
    records = probe.walk.records
    state = records[0].state
    keys = _keys(state)
    if not keys:
        yield (
            "step: draws random numbers, but the state holds no key, so every step draws the same; put a key in the "
            "state and split it in every step"
        )
        return
    pairs = [(a.state, b.state) for a, b in pairwise(records) if b.method == "step"]
    moved = any(same(_keys(before), _keys(after), exact=True) is not None for before, after in pairs)
    if not moved and "random_fold_in" not in used:
        yield (
            f"step: draws random numbers but leaves state{', state'.join(keys)} unchanged, so the next step draws the "
            "same; return the other half of jax.random.split"
        )


def no_key_is_used_twice(probe: Probe) -> Iterator[str]:
    """JAX's key-reuse checker passes reset, step, and an episode of both."""
    if _uses_keys_once(probe):
        return
    actions = jnp.asarray(probe.plain_actions[0])
    environment = probe.environment

    def episode(key: jax.Array) -> Any:
        state, _ = environment.reset(key)
        for _ in range(2):
            state, _ = environment.step(state, actions)
        return state

    state = probe.walk.records[0].state
    for what, function, argument in (
        ("reset", environment.reset, probe.key(0)),
        ("step", lambda state: environment.step(state, actions), state),
        ("reset, step", episode, probe.key(0)),
    ):
        error = _reuse(function, argument)
        if error is not None:
            yield f"{what}: a random key is used twice ({describe(error)}); split it and use each part once"
            return


def _uses_keys_once(probe: Probe) -> bool:
    """True if an episode of the programs already traced passes; then each of them passes as well."""
    if probe.programs.keys() != {"reset", "step"}:
        return False
    reset, step = (jaxpr_as_fun(probe.programs[method].jaxpr) for method in ("reset", "step"))
    width = len(jax.tree.leaves(probe.avals["reset"][0]))

    def episode(key: jax.Array, actions: jax.Array) -> Any:
        state = reset(key)[:width]
        for _ in range(2):
            state = step(*state, actions)[:width]
        return state

    try:
        with jax.debug_key_reuse(True):
            jax.jit(episode).trace(probe.key(0), jnp.asarray(probe.plain_actions[0]))
    except Exception:
        return False
    return True


def _reuse(function: Any, argument: Any) -> Exception | None:
    try:
        with jax.debug_key_reuse(True):
            jax.jit(lambda value: function(value)).trace(argument)
    except jax.errors.KeyReuseError as error:
        return error
    except Exception:
        return None
    return None
