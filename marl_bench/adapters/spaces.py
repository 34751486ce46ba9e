"""Our specs as Gymnasium's spaces."""

from __future__ import annotations

from typing import Any

import numpy as np

from marl_bench.adapters.extras import import_extra
from marl_bench.environment import Environment


def view_space(env: Environment, extra: str) -> Any:
    """`gymnasium.spaces.Box` of one agent's view; `extra` is named if Gymnasium is missing."""
    spec = env.observation_spec.agents_view
    return _box(spec, extra)


def action_space(env: Environment, agent: int, extra: str) -> Any:
    """`Discrete` or `Box` of one agent's action; `extra` is named if Gymnasium is missing."""
    spec = env.action_spec
    if not hasattr(spec, "num_values"):
        return _box(spec, extra, agent)
    return import_extra("gymnasium.spaces", extra).Discrete(int(np.asarray(spec.num_values)[agent]))


def _box(spec: Any, extra: str, agent: int = 0) -> Any:
    spaces = import_extra("gymnasium.spaces", extra)
    if np.issubdtype(spec.dtype, np.bool_):
        low, high = 0, 1
    elif np.issubdtype(spec.dtype, np.integer):
        low, high = np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max
    else:
        low, high = -np.inf, np.inf
    low = np.broadcast_to(getattr(spec, "minimum", low), spec.shape)[agent]
    high = np.broadcast_to(getattr(spec, "maximum", high), spec.shape)[agent]
    return spaces.Box(low.astype(spec.dtype), high.astype(spec.dtype), spec.shape[1:], spec.dtype)
