"""DQN's view of any discrete environment: auto-reset copies stepped side by side, replay of whole transitions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms import transition_replay
from marl_bench.algorithms.dqn_codes import step_metrics
from marl_bench.algorithms.equations import cumulative_thresholds
from marl_bench.algorithms.networks import mlp
from marl_bench.algorithms.transition_replay import Sample, Transitions
from marl_bench.environment import Environment
from marl_bench.random import unit_interval
from marl_bench.wrappers import AutoReset


@struct.dataclass
class TransitionWorld:
    """B environments and the replay of one cell.

    Attributes:
      env_state: [B, ...] states of the auto-reset environments.
      view: [B, N, O] float32 current observations; mask: [B, N, A] bool legal actions.
      ring: `Transitions` with a leading axis of `buffer_steps`.
    """

    env_state: Any
    view: jax.Array
    mask: jax.Array
    ring: Transitions


def _views(observation: Any) -> jax.Array:
    """[B, N, O] float32: each agent's view, flattened."""
    view = observation.agents_view
    return view.reshape(*view.shape[:2], -1).astype(jnp.float32)


def with_inputs(view: jax.Array, inputs: jax.Array) -> jax.Array:
    """Write learner inputs [F] into the last entries of every view [..., O]."""
    return view.at[..., -inputs.shape[-1] :].set(inputs) if inputs.shape[-1] else view


def init(learner: Any, env: Environment, key: jax.Array) -> TransitionWorld:
    """Reset `num_envs` environments and start an empty replay (zeros)."""
    keys = jax.random.split(key, learner.num_envs)
    env_state, timestep = jax.vmap(AutoReset(env).reset)(keys)
    view = with_inputs(_views(timestep.observation), learner.training_inputs(env, jnp.int32(0)))
    mask = timestep.observation.action_mask
    example = Transitions(
        view=view,
        action=jnp.zeros(view.shape[:2], jnp.int32),
        reward=timestep.reward,
        discount=timestep.discount,
        last=timestep.last(),
        next_view=view,
        next_mask=mask,
    )
    ring = transition_replay.init(example, learner.buffer_steps)
    return TransitionWorld(env_state=env_state, view=view, mask=mask, ring=ring)


def policy(env: Environment, network: Any) -> Any:
    """What `collect` needs of a network: the network itself."""
    del env
    return network


def q_values(network: Any, view: jax.Array, group: jax.Array | None) -> jax.Array:
    """[B, N, A] action values of views [B, N, O]; `group`: [N] int32 network of each agent, None for one network."""
    if group is None:
        return mlp(jax.tree.map(lambda leaf: leaf[0], network), view)
    own = jax.tree.map(lambda leaf: leaf[group], network)
    return jax.vmap(mlp, (0, 1), 1)(own, view)


def choose_actions(probabilities: jax.Array, word: jax.Array) -> jax.Array:
    """Sample [B, N] int32 actions from probabilities [B, N, A] with uniform words [B * N]."""
    bounds = cumulative_thresholds(probabilities)
    return jnp.sum(word.reshape(*bounds.shape[:2], 1) >= bounds, axis=-1, dtype=jnp.int32)


def collect(
    learner: Any,
    env: Environment,
    world: TransitionWorld,
    policy: Any,
    group: jax.Array | None,
    time: jax.Array,
    word: jax.Array,
) -> tuple[TransitionWorld, dict[str, jax.Array]]:
    """Play and store step `time` [] int32 of every copy; returns the world and the step's metrics (means over copies)."""
    env_steps = time * learner.num_envs
    probabilities = learner.behaviour(q_values(policy, world.view, group), env_steps, world.mask)
    actions = choose_actions(probabilities, word)
    env_state, timestep = jax.vmap(AutoReset(env).step)(world.env_state, actions)
    inputs = learner.training_inputs(env, env_steps + learner.num_envs)
    final = timestep.extras["final_observation"]
    stored = Transitions(
        view=world.view,
        action=actions,
        reward=timestep.reward,
        discount=timestep.discount,
        last=timestep.last(),
        next_view=with_inputs(_views(final), inputs),
        next_mask=final.action_mask,
    )
    world = TransitionWorld(
        env_state=env_state,
        view=with_inputs(_views(timestep.observation), inputs),
        mask=timestep.observation.action_mask,
        ring=transition_replay.add(world.ring, stored, time),
    )
    return world, step_metrics(timestep)


def sample(
    learner: Any,
    env: Environment,
    world: TransitionWorld,
    members: jax.Array | None,
    newest: jax.Array,
    word: jax.Array,
) -> Sample:
    """Draw G mini-batches uniformly, with replacement, over the stored (step, copy, member) triples.

    Args:
      members: [G, M] int32, or None for one group of all agents. newest: [] int32. word: [2, G, n] uint32.
    Returns:
      `Sample` with leaves [G, n, ...].
    """
    num_members = env.num_agents if members is None else members.shape[1]
    filled = jnp.minimum(newest + 1, learner.buffer_steps)
    age = jnp.minimum((unit_interval(word[0]) * filled).astype(jnp.int32), filled - 1)
    pairs = num_members * learner.num_envs
    pair = jnp.minimum((unit_interval(word[1]) * pairs).astype(jnp.int32), pairs - 1)
    slot = pair // learner.num_envs
    agent = slot if members is None else jnp.take_along_axis(members, slot, axis=1)
    draw = lambda a, e, i: transition_replay.sample(  # noqa: E731
        world.ring, a, e, i, newest, learner.n_step, learner.discount
    )
    return jax.vmap(draw)(age, pair % learner.num_envs, agent)


def targets(learner: Any, env: Environment, network: Any, target: Any, batch: Sample) -> jax.Array:
    """[G, n] bootstrap targets, gradient stopped; see `dqn_codes.targets`."""
    del env
    online = jax.vmap(mlp)(network, batch.next_view)
    value = learner.bootstrap(online, jax.vmap(mlp)(target, batch.next_view), batch.next_mask)
    return jax.lax.stop_gradient(batch.reward + batch.discount * value)


def predictions(env: Environment, network: Any, batch: Sample) -> jax.Array:
    """[n] values Q(o, a) of one network on one group's batch; differentiable in `network`."""
    del env
    return jnp.take_along_axis(mlp(network, batch.view), batch.action[:, None], axis=1)[:, 0]


def evaluate(learner: Any, env: Environment, state: Any, draw: Any, count: int) -> dict[str, jax.Array]:
    """Play `count` steps of every copy with fixed networks under the evaluation policy; see `DQN.evaluate`.

    Also returns `return_sum` and `return_mean_per_agent` of the episodes that began and ended in the evaluation, and
    `episodes`, their number (0 episodes: returns 0).
    """
    network, group = state.params["network"], state.params.get("group")
    inputs = learner.final_inputs(env)
    copies = jax.vmap(AutoReset(env).step)

    def play(carry: Any, i: jax.Array) -> tuple[Any, Any]:
        env_state, view, mask, gained, whole = carry
        values = q_values(network, with_inputs(view, inputs), group)
        actions = choose_actions(learner.evaluation_policy(values, mask), draw(i))
        env_state, timestep = copies(env_state, actions)
        gap = jnp.max(values, -1) - jnp.min(values, -1)
        found = {**step_metrics(timestep), "q_gap": jnp.mean(gap), "q_level": jnp.mean(values)}
        if values.shape[-1] == 2:
            found["q_signed_gap"] = jnp.mean(values[..., 0] - values[..., 1])
        gained = gained + jnp.sum(timestep.reward, axis=-1)
        ended = timestep.last()
        episode = (jnp.sum(jnp.where(ended & whole, gained, 0.0)), jnp.sum(ended & whole))
        carry = (
            env_state,
            _views(timestep.observation),
            timestep.observation.action_mask,
            jnp.where(ended, 0.0, gained),
            whole | ended,
        )
        return carry, (found, episode)

    num = learner.num_envs
    start = (state.world.env_state, state.world.view, state.world.mask, jnp.zeros(num), jnp.zeros(num, bool))
    _, (metrics, (gained, ended)) = jax.lax.scan(play, start, jnp.arange(count))
    episodes = jnp.sum(ended)
    mean_return = jnp.sum(gained) / jnp.maximum(episodes, 1)
    return {
        **jax.tree.map(jnp.mean, metrics),
        "episodes": episodes.astype(jnp.float32),
        "return_sum": mean_return,
        "return_mean_per_agent": mean_return / env.num_agents,
    }
