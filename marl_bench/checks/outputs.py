"""Checks of what `reset` and `step` return: shapes, dtypes, bounds, masks, finite values, step types, metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from marl_bench.checks.probe import Probe, Record, usable_mask
from marl_bench.checks.trees import leaves_by_path
from marl_bench.environment import StepType

_REMEDY = {
    "agents_view": "override observation_shape or observation_spec",
    "action_mask": "return bool [num_agents, num_actions] (self.observe_view fills in an all-true mask)",
    "step_count": "return an int32 scalar (self.observe_view casts it)",
}


def _once(problems: Iterator[tuple[Any, str]]) -> Iterator[str]:
    """The first sentence of each kind of problem."""
    seen = set()
    for kind, sentence in problems:
        if kind not in seen:
            seen.add(kind)
            yield sentence


def _when(record: Record) -> str:
    return "reset" if record.method == "reset" else f"step {record.age} of an episode"


def _misfits(spec: Any, value: np.ndarray) -> Iterator[tuple[str, str]]:
    """(kind, text) for each way in which a value does not fit its spec: shape, dtype, bounds."""
    if value.shape != tuple(spec.shape):
        yield "shape", f"has shape {value.shape}, the spec says {tuple(spec.shape)}"
    if value.dtype != np.dtype(spec.dtype):
        yield "dtype", f"has dtype {value.dtype}, the spec says {np.dtype(spec.dtype)}"
    low, high = getattr(spec, "minimum", None), getattr(spec, "maximum", None)
    if low is None or high is None or not value.size or value.dtype == object:
        return
    finite = value[np.isfinite(value)]
    if finite.size and (finite.min() < np.min(low) or finite.max() > np.max(high)):
        yield (
            "bounds",
            f"has values in [{finite.min():g}, {finite.max():g}], outside the declared bounds "
            f"[{np.min(low):g}, {np.max(high):g}]",
        )


def observation_fits_spec(probe: Probe) -> Iterator[str]:
    """Every field of the observation has the shape, dtype and bounds of `observation_spec`."""
    spec = probe.environment.observation_spec

    def problems() -> Iterator[tuple[Any, str]]:
        for record in probe.walk.records:
            for name, remedy in _REMEDY.items():
                value = getattr(record.timestep.observation, name, None)
                if value is None:
                    yield (name, "missing"), f"{record.method}: observation.{name} is missing; {remedy}"
                    continue
                for kind, text in _misfits(getattr(spec, name), np.asarray(value)):
                    what = "widen observation_spec or clip the observation" if kind == "bounds" else remedy
                    yield (name, kind), f"{record.method}: observation.{name} {text} (at {_when(record)}); {what}"

    yield from _once(problems())


def mask_allows_an_action(probe: Probe) -> Iterator[str]:
    """Every agent has a legal action at every step."""
    for record in probe.walk.records if probe.discrete else []:
        mask = usable_mask(probe.environment, record.timestep)
        if mask is not None and not mask.any(axis=1).all():
            agent = int(np.argmin(mask.any(axis=1)))
            yield (
                f"{record.method}: agent {agent} has no legal action in action_mask (at {_when(record)}); leave at "
                "least one entry True, for instance the no-op"
            )
            return


def reward_fits_spec(probe: Probe) -> Iterator[str]:
    """The reward fits its spec, is 0 at reset, and the same for all agents where `common_reward` is True."""

    def problems() -> Iterator[tuple[Any, str]]:
        for record in probe.walk.records:
            reward = np.asarray(record.timestep.reward)
            for kind, text in _misfits(probe.environment.reward_spec, reward):
                remedy = "widen reward_spec" if kind == "bounds" else "return one float32 an agent"
                yield kind, f"{record.method}: reward {text}; {remedy}"
            if record.method == "reset" and np.any(reward != 0):
                yield "first", f"reset: reward is {_short(reward)}; it must be 0 at reset, nothing has been done yet"
            if probe.environment.common_reward and np.any(reward != reward[:1]):
                remedy = "drop common_reward, or pay all agents the same"
                yield "common", f"{record.method}: reward {_short(reward)} is not common to all agents; {remedy}"

    yield from _once(problems())


def discount_is_zero_or_one(probe: Probe) -> Iterator[str]:
    """The discount fits its spec, is 0 or 1, 1 at reset, and not 0 for all agents before the end."""

    def problems() -> Iterator[tuple[Any, str]]:
        for record in probe.walk.records:
            discount = np.asarray(record.timestep.discount)
            kinds = dict(_misfits(probe.environment.discount_spec, discount))
            for kind in ("shape", "dtype"):
                if kind in kinds:
                    yield kind, f"{record.method}: discount {kinds[kind]}; return one float32 an agent"
            if not np.isin(discount, (0, 1)).all():
                yield (
                    "values",
                    f"{record.method}: discount is {_short(discount)} (at {_when(record)}); it may only be 0 "
                    "(terminated) or 1; a discount factor belongs to the learner",
                )
            if record.method == "reset" and np.any(discount == 0):
                yield "first", "reset: discount is 0; it must be 1 at reset"
            going_on = record.method == "step" and np.all(record.timestep.step_type != StepType.LAST)
            if going_on and discount.size and np.all(discount == 0):
                yield (
                    "early",
                    f"step: discount is 0 for all agents but step_type is not LAST (at {_when(record)}); end the "
                    "episode when the game is over",
                )

    yield from _once(problems())


def values_are_finite(probe: Probe) -> Iterator[str]:
    """No NaN or infinity in reward or observation."""

    def problems() -> Iterator[tuple[Any, str]]:
        for record in probe.walk.records:
            named = {"reward": record.timestep.reward, **_observation_leaves(record)}
            for name, value in named.items():
                value = np.asarray(value)
                if value.dtype.kind in "fc" and not np.isfinite(value).all():
                    worst = value[~np.isfinite(value)].flat[0]
                    yield (
                        name,
                        f"{record.method}: {name} holds {worst} (at {_when(record)}); keep it finite (guard divisions "
                        "and logarithms)",
                    )

    yield from _once(problems())


def _observation_leaves(record: Record) -> dict[str, Any]:
    return {f"observation{path}": leaf for path, leaf in leaves_by_path(record.timestep.observation).items()}


def _short(value: np.ndarray) -> str:
    flat = value.ravel()
    return f"{flat[:4].tolist()}{'...' if flat.size > 4 else ''}"


def step_types_are_right(probe: Probe) -> Iterator[str]:
    """FIRST at reset and only there; an int8 scalar."""

    def problems() -> Iterator[tuple[Any, str]]:
        for record in probe.walk.records:
            kind = np.asarray(record.timestep.step_type)
            if kind.shape != () or kind.dtype != np.int8:
                yield (
                    "form",
                    f"{record.method}: step_type has shape {kind.shape} and dtype {kind.dtype}; it must be an int8 "
                    "scalar",
                )
            elif record.method == "reset" and kind != StepType.FIRST:
                name = "LAST" if kind == StepType.LAST else "not FIRST"
                yield "reset", f"reset: step_type is {name}; it must be FIRST (use self.restart)"
            elif record.method == "step" and kind == StepType.FIRST:
                yield "step", "step: step_type is FIRST; only reset may return FIRST (use self.transition)"
            elif kind not in (0, 1, 2):
                yield "value", f"{record.method}: step_type is {kind}; use StepType.FIRST, MID or LAST"

    yield from _once(problems())


def step_count_counts(probe: Probe) -> Iterator[str]:
    """`observation.step_count` is the number of steps since the reset, also at LAST."""
    for record in probe.walk.records:
        count = np.asarray(getattr(record.timestep.observation, "step_count", record.age))
        if count.shape != () or count == record.age:
            continue
        if record.timestep.step_type == StepType.LAST and count == 0:
            yield (
                f"step: the last observation of the episode is lost, step_count is 0 where it should be {record.age}; "
                "do not restart inside step, AutoReset does that and keeps the last observation"
            )
        else:
            yield (
                f"{record.method}: observation.step_count is {count} {record.age} steps after the reset; it must "
                "count the steps since the reset"
            )
        return


def extras_keep_their_tree(probe: Probe) -> Iterator[str]:
    """`extras` has the same entries, shapes and dtypes at reset and at every step."""
    records = probe.walk.records
    first = leaves_by_path(records[0].timestep.extras)
    for record in records[1:]:
        now = leaves_by_path(record.timestep.extras)
        for path in [*first, *(path for path in now if path not in first)]:
            if path not in now or path not in first:
                has, lacks = ("reset", record.method) if path in first else (record.method, "reset")
                yield (
                    f"{has}: extras{path} exists after {has} but not after {lacks}; return the same extras tree from "
                    "both"
                )
                return
            before, after = np.asarray(first[path]), np.asarray(now[path])
            if (before.shape, before.dtype) != (after.shape, after.dtype):
                yield (
                    f"{record.method}: extras{path} is {after.dtype}{list(after.shape)} but {before.dtype}"
                    f"{list(before.shape)} after reset; return the same shapes and dtypes from both"
                )
                return


def metrics_are_documented_scalars(probe: Probe) -> Iterator[str]:
    """Every entry of `extras["metrics"]` is a scalar and documented in `metric_units`, and the reverse."""
    units = probe.environment.metric_units
    record = probe.walk.records[-1]
    metrics = record.timestep.extras.get("metrics", {})
    for name, value in metrics.items():
        if np.shape(value) != ():
            yield f"{record.method}: metric {name!r} has shape {np.shape(value)}; reduce it to a scalar"
        if name not in units:
            yield f"metric_units: metric {name!r} is not documented; add its meaning and unit"
    for name in units:
        if name not in metrics:
            yield f"metric_units: {name!r} is documented but missing from extras['metrics']; add it or drop the entry"


def learner_inputs_are_zero(probe: Probe) -> Iterator[str]:
    """The last entries of each view, which the learner fills, are zero."""
    count = len(probe.environment.learner_inputs)
    for record in probe.walk.records if count else []:
        if np.any(np.asarray(record.timestep.observation.agents_view)[..., -count:] != 0):
            yield (
                f"{record.method}: the last {count} entries of agents_view belong to the learner (learner_inputs) but "
                "are not 0; leave them 0"
            )
            return
