"""Checks of whole episodes: how they end, what auto-reset keeps, and what unusual actions do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.checks.probe import Probe, usable_mask
from marl_bench.checks.transforms import carry_changes
from marl_bench.checks.trees import describe, same, to_host
from marl_bench.environment import StepType
from marl_bench.wrappers import AutoReset

_SCAN_STEPS = 20
_LONGEST_SCAN = 200  # horizons up to which the scan includes an episode's end (own choice: its outputs are stored)
_FAR = 7  # how far outside 0 ... A - 1 the tried actions lie; fits every integer type


def ends_as_declared(probe: Probe) -> Iterator[str]:
    """`fixed_horizon` and `endless` tell the truth, and a time limit truncates."""
    horizon, ends = probe.horizon, probe.walk.ends
    if horizon is not None and probe.environment.endless:
        yield f"endless: is True although fixed_horizon is {horizon}; declare one of them"
    if probe.environment.endless and any(kind == StepType.LAST for _, kind, _ in ends):
        yield "step: returns LAST although endless is True; set endless to False or never end the episode"
    if horizon is None:
        return
    for age, kind, discount in ends:
        if kind == StepType.LAST and age < horizon:
            yield f"step: ends an episode after {age} steps although fixed_horizon is {horizon}; return None there"
            return
        if age == horizon and kind != StepType.LAST:
            yield (
                f"step: the episode does not end at step {horizon}, where fixed_horizon says so; pass "
                "truncated=step_count >= horizon to self.transition"
            )
            return
        # One-shot games do terminate: nothing could follow their only step.
        if age == horizon > 1 and discount.size and np.all(discount == 0):
            yield (
                f"step: discount is 0 at the time limit (step {horizon}); a time limit truncates, pass truncated= "
                "instead of terminated= so that learners bootstrap"
            )
            return


def auto_reset_keeps_the_last_observation(probe: Probe) -> Iterator[str]:
    """`AutoReset` hands out the environment's own last observation, reward and discount, inside a scan."""
    if not probe.compiled:
        return
    wrapped = AutoReset(probe.environment)
    rng = np.random.default_rng(probe.seed)
    horizon = probe.horizon or 0
    span = max(_SCAN_STEPS, horizon + 2) if horizon < _LONGEST_SCAN else _SCAN_STEPS
    actions = np.stack([probe.sample(probe.walk.records[0].timestep, rng) for _ in range(span)])

    def advance(state: Any, joint: jax.Array) -> Any:
        following, timestep = wrapped.step(state, joint)
        return following, (timestep, state.inner)

    def play(key: jax.Array) -> Any:
        return jax.lax.scan(advance, wrapped.reset(key)[0], jnp.asarray(actions))[1]

    try:
        got, states = jax.jit(play)(probe.key(0))
    except Exception as error:
        if any(carry_changes(probe)):
            return
        yield (
            f"reset, step: AutoReset cannot wrap the environment inside jax.lax.scan ({describe(error)}); return the "
            "same structure, shapes and dtypes from reset and step"
        )
        return
    if not probe.repeatable:
        return
    state_at = jax.jit(lambda index: jax.tree.map(lambda leaf: leaf[index], states))
    steps = [to_host(probe.run("step", state_at(index), joint)[1]) for index, joint in enumerate(actions)]
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *steps)
    kept = (got.extras["final_observation"], got.reward, got.discount, got.step_type)
    if same(kept, (alone.observation, alone.reward, alone.discount, alone.step_type), exact=False) is not None:
        yield (
            "step: under AutoReset the last observation, reward or discount is not the environment's own; make step a "
            "function of state and actions only"
        )


def _unusual_actions(probe: Probe) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """(name, actions, legal actions with the same effect or None)."""
    spec = probe.environment.action_spec
    low, high = (np.broadcast_to(bound, spec.shape) for bound in (spec.minimum, spec.maximum))
    if not probe.discrete:
        scale = np.where(np.isfinite(high), np.abs(high), 1) * 10 + 1
        yield "actions far above the bounds", scale.astype(spec.dtype), None
        yield "actions far below the bounds", (-scale).astype(spec.dtype), None
        return
    low, high = low.astype(spec.dtype), high.astype(spec.dtype)
    yield "actions above the range", (high + _FAR).astype(spec.dtype), high
    if np.issubdtype(spec.dtype, np.signedinteger):
        yield "actions below the range", (low - _FAR).astype(spec.dtype), low
    mask = usable_mask(probe.environment, probe.walk.records[0].timestep)
    if mask is not None and mask.shape[:1] == spec.shape and not mask.all():
        yield "masked actions", np.argmin(mask, axis=1).astype(spec.dtype), None


def unusual_actions_do_no_harm(probe: Probe) -> Iterator[str]:
    """Actions outside the range are clipped; they and masked ones neither raise nor leave the specs."""
    clip = "clip them first: jnp.clip(actions, 0, self.num_actions - 1)"
    state, _ = probe.run("reset", probe.key(0))
    usual = _harms(probe, probe.run("step", state, probe.plain_actions[0])[1])
    for name, actions, equivalent in _unusual_actions(probe):
        try:
            result = probe.run("step", state, actions)
        except Exception as error:
            yield f"step: raises for {name} ({describe(error)}); {clip}"
            continue
        harms = _harms(probe, result[1]) - usual
        if harms:
            yield f"step: {name} lead to {' and '.join(sorted(harms))}; {clip}"
        elif equivalent is not None:
            path = same(result, probe.run("step", state, equivalent), exact=False)
            if path is not None:
                yield f"step: {name} have another effect than the nearest legal ones; {clip}"


def _harms(probe: Probe, timestep: Any) -> set[str]:
    """What is wrong with the values of a timestep: not finite, out of bounds."""
    harms, host = set(), to_host(timestep)
    for name, spec, value in (
        ("reward", probe.environment.reward_spec, host.reward),
        ("agents_view", probe.environment.observation_spec.agents_view, host.observation.agents_view),
    ):
        if not np.isfinite(value).all():
            harms.add(f"NaN or infinity in {name}")
        elif np.any(value < np.min(getattr(spec, "minimum", -np.inf))) or np.any(
            value > np.max(getattr(spec, "maximum", np.inf))
        ):
            harms.add(f"{name} out of its bounds")
    return harms
