"""DQN's view of an endless world with few distinct observations: exact shortcuts, no approximation.

The network is evaluated once per distinct observation instead of once per agent; replay keeps observation codes
and recomputes views, actions and rewards (`marl_bench.algorithms.code_replay`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms import code_replay
from marl_bench.algorithms.code_replay import CodeReplay
from marl_bench.algorithms.equations import cumulative_thresholds, gather_entries, lookup
from marl_bench.algorithms.networks import mlp
from marl_bench.environment import Environment
from marl_bench.random import unit_interval


@struct.dataclass
class CodeWorld:
    """Environment and replay of one cell.

    Attributes:
      env_state: state of the environment.
      replay: the codes of the last `buffer_steps` steps.
    """

    env_state: Any
    replay: CodeReplay


@struct.dataclass
class CodeBatch:
    """G mini-batches of n transitions.

    Attributes:
      code: [G, n] uint32 observation acted on.
      action: [G, n] int32.
      reward: [G, n] float32, discounted sum over the window.
      discount: [G, n] float32, factor of the bootstrap value.
      next_code: [G, n] uint32 observation that is bootstrapped from.
      inputs: [G, n, F] float32 learner inputs of the observation; next_inputs: [G, n, F] of the next one.
    """

    code: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    next_code: jax.Array
    inputs: jax.Array
    next_inputs: jax.Array


def init(learner: Any, env: Environment, key: jax.Array) -> CodeWorld:
    """Reset the environment and start an empty replay."""
    env_state, _ = env.reset(key)
    assert env.num_codes is not None
    replay = code_replay.init(env.observation_code(env_state), env.num_codes, learner.buffer_steps)
    return CodeWorld(env_state=env_state, replay=replay)


def q_tables(env: Environment, network: Any, inputs: jax.Array) -> jax.Array:
    """[G, K, A] action values of every distinct observation. `inputs`: [F] learner inputs, common to all agents."""
    views = jnp.asarray(env.code_observations())
    if env.learner_inputs:
        views = views.at[:, -len(env.learner_inputs) :].set(inputs)
    return jax.vmap(mlp, (0, None))(network, views)


def choose_actions(tables: jax.Array, code: jax.Array, group: jax.Array | None, word: jax.Array) -> jax.Array:
    """Sample each agent's action.

    Args:
      tables: [G, K, A] action probabilities by group and code.
      code: [N] uint8; group: [N] int32, or None for one group; word: [N] uint32 uniform.
    Returns:
      [N] int32 actions.
    """
    num_groups, num_codes, _ = tables.shape
    thresholds = cumulative_thresholds(tables).reshape(num_groups * num_codes, -1)
    index = code if group is None else group * num_codes + code.astype(jnp.int32)
    crossed = [word >= lookup(thresholds[:, j], index) for j in range(thresholds.shape[1])]
    return sum(part.astype(jnp.int32) for part in crossed)  # type: ignore[return-value]


def policy(env: Environment, network: Any) -> Any:
    """What `collect` needs of a network: its table [G, K, A], or the network itself where views hold learner inputs."""
    return network if env.learner_inputs else q_tables(env, network, jnp.zeros(0))


def collect(
    learner: Any,
    env: Environment,
    world: CodeWorld,
    policy: Any,
    group: jax.Array | None,
    time: jax.Array,
    word: jax.Array,
) -> tuple[CodeWorld, dict[str, jax.Array]]:
    """Play and store step `time` [] int32 with uniform words [N]; returns the world and the step's metrics."""
    tables = q_tables(env, policy, learner.training_inputs(env, time)) if env.learner_inputs else policy
    actions = choose_actions(learner.behaviour(tables, time), world.replay.code, group, word)
    env_state, timestep = env.step(world.env_state, actions)
    replay = code_replay.add(world.replay, env.observation_code(env_state), time + 1)
    return CodeWorld(env_state=env_state, replay=replay), step_metrics(timestep)


def step_metrics(timestep: Any) -> dict[str, jax.Array]:
    """The environment's own metrics, and the reward as sum and as mean per agent (per environment step)."""
    reward = timestep.reward
    return {
        **jax.tree.map(jnp.mean, timestep.extras["metrics"]),
        "reward_sum": jnp.mean(jnp.sum(reward, axis=-1)),
        "reward_mean_per_agent": jnp.mean(reward),
    }


def sample(
    learner: Any, env: Environment, world: CodeWorld, members: jax.Array | None, newest: jax.Array, word: jax.Array
) -> CodeBatch:
    """Draw G mini-batches uniformly, with replacement, over the stored (step, member) pairs.

    A transition begun at least n - 1 steps before the newest uses the n-step window, a younger one the 1-step window.

    Args:
      members: [G, M] int32 agents of each group, or None for one group of all agents.
      newest: [] int32 time of the newest stored step.
      word: [2, G, n] uint32 uniform.
    """
    num_members = env.num_agents if members is None else members.shape[1]
    filled = jnp.minimum(newest + 1, learner.buffer_steps)
    # float32 rounding may reach the upper end itself.
    age = jnp.minimum((unit_interval(word[0]) * filled).astype(jnp.int32), filled - 1)
    slot = jnp.minimum((unit_interval(word[1]) * num_members).astype(jnp.int32), num_members - 1)
    agent = slot if members is None else jnp.take_along_axis(members, slot, axis=1)
    shape = age.shape
    codes = code_replay.windows(world.replay, age.reshape(-1), agent.reshape(-1), newest, learner.n_step)
    codes = codes.reshape(-1, *shape)
    outcome = env.code_outcome(codes[1:], jnp.broadcast_to(agent, (learner.n_step, *shape)))
    assert outcome is not None
    action, reward = outcome
    full = age >= learner.n_step - 1
    total = sum(learner.discount**k * reward[k] for k in range(learner.n_step))
    began = newest - age
    return CodeBatch(
        code=codes[0],
        action=action[0],
        reward=jnp.where(full, total, reward[0]),
        discount=jnp.where(full, learner.discount**learner.n_step, learner.discount),
        next_code=jnp.where(full, codes[-1], codes[1]),
        inputs=learner.training_inputs(env, began),
        next_inputs=learner.training_inputs(env, began + jnp.where(full, learner.n_step, 1)),
    )


def batch_values(env: Environment, network: Any, code: jax.Array, inputs: jax.Array) -> jax.Array:
    """[n, A] action values of one network at codes [n] with learner inputs [n, F]."""
    views = jnp.asarray(env.code_observations())[code.astype(jnp.int32)]
    views = views.at[:, -inputs.shape[-1] :].set(inputs)
    return mlp(network, views)


def targets(learner: Any, env: Environment, network: Any, target: Any, batch: CodeBatch) -> jax.Array:
    """[G, n] bootstrap targets: reward + discount * Q_target(o', argmax_a Q(o', a)) (double) or max_a Q_target."""
    if env.learner_inputs:
        evaluate = jax.vmap(lambda net, code, inputs: batch_values(env, net, code, inputs))
        online = evaluate(network, batch.next_code, batch.next_inputs)
        value = learner.bootstrap(online, evaluate(target, batch.next_code, batch.next_inputs))
    else:
        no_inputs = jnp.zeros(0)
        table = learner.bootstrap(q_tables(env, network, no_inputs), q_tables(env, target, no_inputs))
        value = jax.vmap(gather_entries)(table, batch.next_code.astype(jnp.int32))
    return jax.lax.stop_gradient(batch.reward + batch.discount * value)


def predictions(env: Environment, network: Any, batch: CodeBatch) -> jax.Array:
    """[n] values Q(o, a) of one network on one group's batch (leaves [n, ...]); differentiable in `network`."""
    if env.learner_inputs:
        values = batch_values(env, network, batch.code, batch.inputs)
        return jnp.take_along_axis(values, batch.action[:, None], axis=1)[:, 0]
    values = mlp(network, jnp.asarray(env.code_observations()))
    return gather_entries(values.reshape(-1), batch.code.astype(jnp.int32) * values.shape[-1] + batch.action)


def visit_counts(code: jax.Array, group: jax.Array | None, num_groups: int, num_codes: int) -> jax.Array:
    """[G, K] int32: how many agents of each group see each code."""
    seen = code[:, None] == jnp.arange(num_codes, dtype=code.dtype)
    if group is None:
        return jnp.sum(seen, axis=0, dtype=jnp.int32)[None]
    mine = (group[:, None] == jnp.arange(num_groups)).astype(jnp.float32)
    return jnp.matmul(mine.T, seen.astype(jnp.float32), precision="highest").astype(jnp.int32)


def value_diagnostics(tables: jax.Array, visits: jax.Array) -> dict[str, jax.Array]:
    """Visit-weighted action-value gap, its sign for two actions, and value level (spec: Q-gap diagnostics).

    Args:
      tables: [G, K, A] action values; visits: [G, K] counts.
    """
    weight = visits / jnp.sum(visits)
    gap = jnp.max(tables, axis=-1) - jnp.min(tables, axis=-1)
    found = {"q_gap": jnp.sum(weight * gap), "q_level": jnp.sum(weight * jnp.mean(tables, axis=-1))}
    if tables.shape[-1] == 2:
        found["q_signed_gap"] = jnp.sum(weight * (tables[..., 0] - tables[..., 1]))
    return found


def evaluate(learner: Any, env: Environment, state: Any, draw: Any, count: int) -> dict[str, jax.Array]:
    """Play `count` steps with fixed networks under the evaluation policy; see `DQN.evaluate`.

    Args:
      draw: function of the step's number giving uniform words [N].
    """
    tables = q_tables(env, state.params["network"], learner.final_inputs(env))
    group = state.params.get("group")
    probabilities = learner.evaluation_policy(tables)

    def play(carry: Any, i: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        env_state, visits = carry
        code = env.observation_code(env_state)
        visits = visits + visit_counts(code, group, tables.shape[0], tables.shape[1])
        env_state, timestep = env.step(env_state, choose_actions(probabilities, code, group, draw(i)))
        return (env_state, visits), step_metrics(timestep)

    visits = jnp.zeros(tables.shape[:2], jnp.int32)
    (_, visits), metrics = jax.lax.scan(play, (state.world.env_state, visits), jnp.arange(count))
    means = jax.tree.map(jnp.mean, metrics)
    weights = visits.astype(jnp.float32)
    return {**means, **value_diagnostics(tables, weights), "visits": jnp.sum(weights, axis=0)}
