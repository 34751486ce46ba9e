"""Checks of the environment as an object: a frozen pytree that stays unchanged, and its optional offers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.checks.probe import Probe
from marl_bench.checks.trees import describe, is_numeric, same
from marl_bench.environment import Environment

_MEMBERS = [name for name in dir(Environment) if not name.startswith("_")]


def is_frozen_pytree(probe: Probe) -> Iterator[str]:
    """The class is a frozen dataclass that JAX can take apart and rebuild."""
    environment, name = probe.environment, type(probe.environment).__name__
    own = getattr(environment, "__dict__", {})
    missing = [name for name in _MEMBERS if not hasattr(type(environment), name) and name not in own]
    if missing:
        yield f"{name}: lacks {', '.join(missing)}; derive the class from marl_bench.Environment"
    if not dataclasses.is_dataclass(environment):
        yield f"{name}: is not a dataclass; decorate the class with flax.struct.dataclass"
    elif not type(environment).__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        yield f"{name}: is not frozen, its fields can be changed; decorate the class with flax.struct.dataclass"
    if not probe.is_pytree:
        yield (
            f"{name}: is not a pytree, so its fields cannot be swept or stacked; decorate the class with "
            "flax.struct.dataclass"
        )
        return
    try:
        probe.rebuilt([object()] * len(probe.leaves))
    except Exception as error:
        yield (
            f"__post_init__: cannot rebuild {name} from traced fields ({describe(error)}); check plain numbers only "
            "(marl_bench.environment.check_range skips the rest)"
        )


def fields_are_leaves_or_static(probe: Probe) -> Iterator[str]:
    """Arrays and swept numbers are leaves; static fields can be hashed."""
    environment = probe.environment
    for field in dataclasses.fields(environment) if dataclasses.is_dataclass(environment) else ():
        value = getattr(environment, field.name, None)
        if field.metadata.get("pytree_node", True):
            odd = [leaf for leaf in jax.tree.leaves(value) if not is_numeric(leaf)]
            if odd and probe.is_pytree:
                yield (
                    f"field {field.name}: a leaf holds {type(odd[0]).__name__}, which JAX cannot trace; mark it static "
                    "(struct.field(pytree_node=False))"
                )
            continue
        try:
            hash(value)
        except TypeError:
            yield (
                f"field {field.name}: is static but holds {type(value).__name__}, which cannot be hashed; make it a "
                "leaf (drop pytree_node=False) or store it as a tuple"
            )


def leaves_itself_alone(probe: Probe) -> Iterator[str]:
    """`reset` and `step` change no attribute of the object or of its class."""
    for index, (first, second) in enumerate(pairwise(probe.snapshots)):
        for name in sorted(first.keys() | second.keys()):
            if first.get(name) != second.get(name):
                method = "step" if index else "reset"
                yield f"{method}: changes the attribute {name} of the environment; keep what changes in the state"


def picture_is_rgb(probe: Probe) -> Iterator[str]:
    """`render`, if offered, returns uint8 [H, W, 3]."""
    record = probe.walk.records[-1]
    try:
        picture = probe.environment.render(record.state)
    except NotImplementedError:
        return
    except Exception as error:
        yield f"render: fails with {describe(error)}; return a uint8 [H, W, 3] picture or do not define it"
        return
    picture_array = np.asarray(picture)
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        yield (
            f"render: returns {type(picture).__name__} {picture_array.dtype}{list(picture_array.shape)}; return "
            "NumPy uint8 [H, W, 3] picture"
        )


def global_state_is_vector(probe: Probe) -> Iterator[str]:
    """`global_state`, if offered, returns finite float32 [S]."""
    try:
        value = np.asarray(_fast(probe, probe.environment.global_state)(probe.walk.records[-1].state))
    except NotImplementedError:
        return
    except Exception as error:
        yield f"global_state: fails with {describe(error)}; return a float32 vector or do not define it"
        return
    if value.ndim != 1 or value.dtype != np.float32 or not np.isfinite(value).all():
        yield f"global_state: returns {value.dtype}{list(value.shape)}; return a finite float32 vector [S]"


def _fast(probe: Probe, function: Any) -> Any:
    return jax.jit(lambda *args: function(*args)) if probe.compiled else function


def codes_name_the_views(probe: Probe) -> Iterator[str]:
    """If views are enumerated, each code stands for the view that the agent really has."""
    environment = probe.environment
    count = environment.num_codes
    if count is None:
        return
    table = np.asarray(environment.code_observations())
    if len(table) != count or not 1 <= count <= 256:
        yield f"code_observations: has {len(table)} rows, num_codes says {count}; return one row a code (at most 256)"
        return
    lookup = _fast(probe, environment.observation_code)
    for record in probe.walk.records:
        code = np.asarray(lookup(record.state))
        view = np.asarray(record.timestep.observation.agents_view)
        if code.shape != (environment.num_agents,) or code.dtype != np.uint8 or (code >= count).any():
            yield f"observation_code: returns {code.dtype}{list(code.shape)}; return uint8 [N] below num_codes={count}"
            return
        if not np.allclose(table[code].reshape(len(code), -1), view.reshape(len(view), -1), atol=1e-6):
            yield (
                f"observation_code: the code's row of code_observations is not the agents_view {record.age} steps "
                "after the reset; the table and the codes must agree with the observation"
            )
            return


def codes_give_the_outcome(probe: Probe) -> Iterator[str]:
    """`code_outcome`, if offered, recovers the actions played and the rewards received."""
    environment = probe.environment
    if environment.num_codes is None:
        return
    agents = jnp.arange(environment.num_agents)
    lookup = _fast(probe, lambda state: environment.code_outcome(environment.observation_code(state), agents))
    for record in probe.walk.records:
        if record.actions is None:
            continue
        outcome = lookup(record.state)
        if outcome is None:
            return
        for name, found, wanted in zip(
            ("action", "reward"), outcome, (record.actions, record.timestep.reward), strict=True
        ):
            if same(found, np.asarray(wanted).astype(np.asarray(found).dtype), exact=False) is not None:
                yield (
                    f"code_outcome: its {name} is not the one of the step that led to the code; return None if the "
                    "code does not determine it"
                )
                return
