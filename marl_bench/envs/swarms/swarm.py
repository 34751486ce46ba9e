"""What all swarms share: N agents, vector actions, a fixed horizon, and a mean field."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.environment import Environment
from marl_bench.mean_field import Axis, Features

BROADCASTS = ("nothing", "state", "views")
"""Who is told the mean field's features: nobody, the global state, or besides every agent."""

BROADCAST_DOC = "who is told the features of the mean field: nothing (nobody), state (they are the global state), or views (every agent, too)"


class Swarm(Environment):
    """Base of the swarms; a subclass has the static fields `agents`, `horizon` and `broadcast`."""

    agents: int
    horizon: int
    broadcast: str

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        return self.agents

    @property
    def num_actions(self) -> int:
        """0: actions are vectors."""
        return 0

    @property
    def fixed_horizon(self) -> int | None:
        """`horizon`, in steps."""
        return self.horizon

    @property
    def mean_field_axes(self) -> tuple[Axis, ...]:
        """The coordinates of an agent's state in `mean_field`."""
        raise NotImplementedError(f"{type(self).__name__} must define mean_field_axes")

    def mean_field(self, state: Any) -> jax.Array:
        """[C, N, d] float32 embedded states of the agents, and C - 1 mirrored images of each: the sample of the mean field."""
        raise NotImplementedError(f"{type(self).__name__} must define mean_field")

    def neighbours(self, state: Any) -> jax.Array:
        """[N, N] bool: whom each agent sees, row by row."""
        raise NotImplementedError(f"{type(self).__name__} must define neighbours")

    def agents_state(self, state: Any) -> jax.Array:
        """[S] float32: the states of all agents one after the other."""
        raise NotImplementedError(f"{type(self).__name__} must define agents_state")

    def global_state(self, state: Any) -> jax.Array:
        """[S] float32: `agents_state`, or with `broadcast` the K features of the mean field, which do not grow with N."""
        if self.broadcast == "nothing":
            return self.agents_state(state)
        return Features()(self.mean_field_axes, self.mean_field(state))

    @property
    def told_size(self) -> int:
        """Entries that `told` appends to a view."""
        return Features().size(self.mean_field_axes) if self.broadcast == "views" else 0

    def told(self, state: Any, view: jax.Array) -> jax.Array:
        """[N, d + K] views [N, d] with what is broadcast to every agent."""
        if self.broadcast != "views":
            return view
        features = self.global_state(state)
        return jnp.concatenate([view, jnp.broadcast_to(features, (self.agents, features.size))], axis=1)
