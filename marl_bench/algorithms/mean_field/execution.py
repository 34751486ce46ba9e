"""Ways to execute a policy of `dec_pomfc`: who knows the mean field, and who draws the parameters xi.

| protocol | mean field | xi | decentralised |
|---|---|---|---|
| `CE` | known | one draw for all | with the mean field and a random key shared |
| `CE-mode` | known | its mode | with the mean field shared |
| `DE` | known | a draw of each agent's own | with the mean field shared |
| `DE-est` | each agent's estimate from those it sees | its mode | yes |
| `OL` | unknown; a plan made beforehand from simulated swarms | mode for the plan's features | yes |
| `OL-seed` | unknown; of one simulated swarm with a key that all agents share | its mode | yes |
| `STAT` | unknown | one for all times, the mean over the plan | yes |

Source: the specification of this reconstruction; that open-loop policies were studied is second-hand knowledge of Cui et al. 2024, and that
each agent draws its own parameters in decentralised evaluation stands in the authors' later code.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.algorithms.mean_field.dec_pomfc import DecPOMFC
from marl_bench.algorithms.mean_field.mean_field_mdp import MeanFieldMDP
from marl_bench.environment import Environment, Observation, ScriptedPolicy
from marl_bench.naming import nearest

PROTOCOLS = ("CE", "CE-mode", "DE", "DE-est", "OL", "OL-seed", "STAT")

NOMINAL_RUNS = 16
"""Simulated swarms that a plan is the mean of."""


def policy(
    learner: DecPOMFC, params: Any, env: Environment, protocol: str, key: jax.Array | None = None
) -> ScriptedPolicy:
    """A policy that plays `env` by one of the protocols.

    Args:
      learner: whose parameters these are. params: `TrainState.params`.
      env: the swarm; of any number of agents.
      protocol: one of `PROTOCOLS`.
      key: [] typed PRNG key of the simulations of OL, OL-seed and STAT.
    Returns:
      `policy(state, observation, key) -> actions` [N, D] float32.
    Raises:
      ValueError: for an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r}: must be one of {', '.join(PROTOCOLS)}{nearest(protocol, PROTOCOLS)}")
    mdp = learner.mdp(params, env)
    if protocol in ("OL", "OL-seed", "STAT"):
        assert key is not None, f"{protocol} simulates swarms and needs a key"
        views = plan(learner, params, env, key, runs=1 if protocol == "OL-seed" else NOMINAL_RUNS)
        table = learner.planner(params, views).mode()
        return _planned(learner, params, jnp.mean(table, axis=0, keepdims=True) if protocol == "STAT" else table)

    def play(state: Any, observation: Observation, key: jax.Array) -> jax.Array:
        key_xi, key_rule = jax.random.split(key)
        views = _estimates(mdp, state, observation) if protocol == "DE-est" else mdp.view(state, observation.step_count)
        law = learner.planner(params, views)
        xi = law.mode()
        if protocol in ("CE", "DE"):
            leading = (env.num_agents,) if protocol == "DE" else ()
            xi = law.sample(jax.random.normal(key_xi, (*leading, xi.shape[-1])))
        return learner.apply_rule(params, xi, observation.agents_view, key_rule)

    return play


def _planned(learner: DecPOMFC, params: Any, table: jax.Array) -> ScriptedPolicy:
    """Agents that know nothing but the time, their own view and `table` [T, M * D * 2], whose last entry holds afterwards."""

    def play(state: Any, observation: Observation, key: jax.Array) -> jax.Array:
        del state
        xi = table[jnp.minimum(observation.step_count, table.shape[0] - 1)]
        return learner.apply_rule(params, xi, observation.agents_view, key)

    return play


def plan(learner: DecPOMFC, params: Any, env: Environment, key: jax.Array, runs: int = NOMINAL_RUNS) -> jax.Array:
    """[T, K] what the planner reads at each step of an episode, the mean over simulated runs of `env` under CE-mode.

    Args:
      learner: whose parameters these are. params: `TrainState.params`. env: the swarm. key: [] typed PRNG key.
      runs: number of simulated swarms.
    """
    mdp = learner.mdp(params, env)

    def run(key: jax.Array) -> jax.Array:
        state, timestep = mdp.reset(key)

        def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
            state, view = carry
            state, timestep = mdp.step(state, learner.planner(params, view).mode())
            return (state, timestep.observation.agents_view), view[0]

        return jax.lax.scan(step, (state, timestep.observation.agents_view), None, env.fixed_horizon)[1]

    return jnp.mean(jax.lax.map(run, jax.random.split(key, runs)), axis=0)


def _estimates(mdp: MeanFieldMDP, state: Any, observation: Observation) -> jax.Array:
    """[N, K] what each agent would read if those that it sees, and itself, were the whole swarm."""
    env = mdp.environment
    places, axes = env.mean_field(state), env.mean_field_axes
    seen = env.neighbours(state) | jnp.eye(env.num_agents, dtype=bool)

    def one(mask: jax.Array) -> jax.Array:
        return mdp.features(axes, places, mask * 1.0)

    return jax.vmap(lambda mask: mdp.timed(one(mask), observation.step_count))(seen)
