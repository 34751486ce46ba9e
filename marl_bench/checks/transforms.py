"""Checks under JAX's transformations: jit, vmap over keys and over stacked environments, scan, retracing, callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.checks.probe import Probe
from marl_bench.checks.trees import describe, leaves_by_path, same, to_host


def runs_under_jit(probe: Probe) -> Iterator[str]:
    """`reset` and `step` can be compiled."""
    _ = probe.walk
    for method in ("reset", "step"):
        error = probe.failures.get((method, "compiled"))
        if error is not None:
            yield (
                f"{method}: cannot be compiled by jax.jit ({describe(error)}); replace Python if, while, int() and "
                "float() on arrays by jnp.where and jnp arithmetic"
            )
    if probe.walk.error is not None:
        yield f"step: stops working after {len(probe.walk.ends)} steps with {describe(probe.walk.error)}"


def jit_changes_nothing(probe: Probe) -> Iterator[str]:
    """The compiled methods return what the plain ones do, from the same inputs."""
    for method, path in probe.jit_differences.items():
        yield (
            f"{method}: returns another {_leaf(path)} under jax.jit than without; let the result depend on the "
            "arguments only, not on being traced or on Python values that change"
        )


def _leaf(path: str) -> str:
    """Readable name of a leaf of (state, timestep)."""
    return {"[0]": "state", "[1]": "timestep"}.get(path[:3], "") + path[3:]


def vmaps_over_keys(probe: Probe) -> Iterator[str]:
    """A batch of keys gives each lane what its key gives alone."""
    if not probe.compiled or probe.batches:
        return
    keys, actions, alone = probe.lanes
    try:
        batch = to_host(jax.jit(jax.vmap(lambda *args: probe.play_with([], [], *args)))(keys, actions))
    except Exception as error:
        probe.failures["reset, step", "batched"] = error
        yield f"reset, step: fail under jax.vmap over keys ({describe(error)}); use operations that can be batched"
        return
    for lane, both in enumerate(alone if probe.repeatable else []):
        path = same(jax.tree.map(lambda leaf, lane=lane: leaf[lane], batch), both, exact=False)
        if path is not None:
            method = "reset" if path.startswith("[0]") else "step"
            yield (
                f"{method}: a batch of keys gives another {_leaf(path[3:])} than each key alone; derive all randomness "
                "from the key"
            )
            return


def vmaps_over_environments(probe: Probe) -> Iterator[str]:
    """Stacked environments (other leaf values in each lane) run as one program."""
    if not probe.compiled or not probe.swept or probe.batches:
        return
    key, actions = probe.key(0), jnp.asarray(probe.plain_actions[0])

    def play(values: list[Any], indices: list[int]) -> Any:
        return probe.play_with(values, indices, key, actions)

    try:
        batch = to_host(jax.jit(jax.vmap(lambda values: play(values, probe.swept)))(probe.stacked()))
    except Exception as error:
        culprits = [name for index in probe.swept if (name := _stuck(probe, play, index)) is not None]
        if not culprits and ("reset, step", "batched") in probe.failures:
            return
        who = f"field {', '.join(culprits)} is used as a Python value" if culprits else "some leaf cannot be traced"
        yield (
            f"reset, step: fail under jax.vmap over stacked environments: {who} ({describe(error)}); use jnp on it, or "
            "mark it static if it decides shapes"
        )
        return
    first = probe.run("reset", key)
    path = same(jax.tree.map(lambda leaf: leaf[-1], batch), (first, probe.run("step", first[0], actions)), exact=False)
    if path is not None and probe.repeatable:
        yield f"reset, step: stacked environments give another {_leaf(path[3:])} than one alone; do not convert leaves"


def _stuck(probe: Probe, play: Any, index: int) -> str | None:
    """Name of the leaf if tracing it alone already fails."""
    try:
        jax.eval_shape(lambda value: play([value], [index]), jnp.asarray(probe.leaves[index]))
    except Exception:
        return list(leaves_by_path(probe.environment))[index].lstrip(".")
    return None


def carries_through_scan(probe: Probe) -> Iterator[str]:
    """The state keeps structure, shapes and dtypes from reset to step, as a scan's carry must."""
    for change in carry_changes(probe):
        yield f"step: cannot be the body of jax.lax.scan, {change}; give both the same dtype and shape"


def carry_changes(probe: Probe) -> Iterator[str]:
    """What of the state is of another shape, dtype or structure after step than after reset."""
    if "step" not in probe.avals:
        return
    before, after = probe.avals["reset"][0], probe.avals["step"][0]
    first, second = leaves_by_path(before), leaves_by_path(after)
    for path in [*first, *(path for path in second if path not in first)]:
        if path not in first or path not in second:
            yield f"state{path} exists only after {'reset' if path in first else 'step'}"
        elif _form(first[path]) != _form(second[path]):
            yield f"state{path} is {_form(first[path])} after reset and {_form(second[path])} after step"
    if first.keys() == second.keys() and jax.tree.structure(before) != jax.tree.structure(after):
        yield "state has another tree structure or other static fields after step than after reset"


def _form(aval: Any) -> str:
    return f"{aval.dtype}{list(aval.shape)}"


def compiles_once(probe: Probe) -> Iterator[str]:
    """A second and third call of `step` reuse the compiled program."""
    reasons = False
    if "step" in probe.avals:
        first, second = (leaves_by_path(probe.avals[method][0]) for method in ("reset", "step"))
        for path in first.keys() & second.keys():
            if first[path].weak_type != second[path].weak_type and _form(first[path]) == _form(second[path]):
                reasons = True
                yield (
                    f"step: is traced again on its second call, state{path} is weakly typed after "
                    f"{'reset' if first[path].weak_type else 'step'} only; write jnp.asarray(value, dtype) in both"
                )
    if probe.compiled and probe.walk.traces > 1 and not reasons and not any(carry_changes(probe)):
        yield (
            f"step: is traced {probe.walk.traces} times in {len(probe.walk.ends)} equal calls; keep the state's tree "
            "structure and static fields the same"
        )


def calls_no_host(probe: Probe) -> Iterator[str]:
    """No callback to Python in the traced programs."""
    for method in ("reset", "step"):
        found = sorted(name for name in probe.draws(method) if "callback" in name or name == "debug_print")
        if found:
            yield (
                f"{method}: calls back to Python ({', '.join(found)}) in the compiled program; remove jax.debug.print "
                "and callbacks"
            )
