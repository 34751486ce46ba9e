"""IPPO as JaxMARL 0.2.0 and its kin write it, on their own environments: the peer that `marl-bench bench learners` times.

Written from the published hyperparameters and the description of the loop, not from their code: a feed-forward actor-critic of
two towers in flax, agents stacked from dicts and back at every step, the environment's own restart, advantages by a scan,
every epoch a `jax.random.permutation` over all T * B * N samples, optax's clipped Adam. Nothing is left out that a user of the
peer would run, and nothing is added: no logging, no callback.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from marl_bench.adapters.extras import import_extra
from marl_bench.envs.particles.actions import NUM_MOVES, to_five_vector
from marl_bench.envs.particles.prey import flee


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hyperparameters; the defaults are JaxMARL's for `MPE_simple_spread_v3` (feed-forward IPPO)."""

    num_envs: int = 16
    num_steps: int = 128
    epochs: int = 4
    minibatches: int = 4
    hidden: int = 64
    learning_rate: float = 2.5e-4
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy_coefficient: float = 0.01
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5


class PeerWorld(NamedTuple):
    """A batch of a peer's environments as arrays.

    Attributes:
      reset: key -> (state, views [B, N, O], masks [B, N, A]).
      step: (key, state, actions [B, N]) -> (state, views, masks, rewards [B, N], ended [B]).
      num_agents: N. num_actions: A.
    """

    reset: Callable[..., Any]
    step: Callable[..., Any]
    num_agents: int
    num_actions: int


def jaxmarl_world(name: str, num_envs: int, **settings: Any) -> PeerWorld:
    """A JaxMARL environment: dicts by agent inside, restart inside its own `step`."""
    env = import_extra("jaxmarl", "jaxmarl").make(name, **settings)
    num_actions = max(int(env.action_space(agent).n) for agent in env.agents)

    def joint(state: Any, actions: jax.Array) -> dict[str, jax.Array]:
        del state
        return {agent: actions[:, index] for index, agent in enumerate(env.agents)}

    return _jaxmarl_world(env, list(env.agents), num_actions, joint, num_envs)


def jaxmarl_hunt(num_envs: int) -> PeerWorld:
    """JaxMARL's `MPE_simple_tag_v3`, in which three predators learn and the prey flees, as in our `tag` with prey="flee".

    Prey that flee push in any direction, so all agents play JaxMARL's five-vectors; a predator's move k is the k-th unit vector, which
    JaxMARL decodes to the same force as the integer k.
    """
    env = import_extra("jaxmarl", "jaxmarl").make("MPE_simple_tag_v3", action_type="Continuous")
    hunters = len(env.adversaries)

    def places(state: Any, bodies: slice) -> tuple[jax.Array, jax.Array]:
        return state.p_pos[:, bodies, 0].T, state.p_pos[:, bodies, 1].T

    def joint(state: Any, actions: jax.Array) -> dict[str, jax.Array]:
        moves = jax.nn.one_hot(actions, NUM_MOVES)
        push = flee(places(state, slice(hunters, hunters + 1)), places(state, slice(hunters)))
        prey = to_five_vector(jnp.stack([axis[0] for axis in push], axis=-1))
        return {**{name: moves[:, index] for index, name in enumerate(env.adversaries)}, env.good_agents[0]: prey}

    return _jaxmarl_world(env, list(env.adversaries), NUM_MOVES, joint, num_envs)


def _jaxmarl_world(
    env: Any,
    learners: list[str],
    num_actions: int,
    joint: Callable[[Any, jax.Array], dict[str, jax.Array]],
    num_envs: int,
) -> PeerWorld:
    """A batch of `env` as its `learners` see it; `joint`: state, their actions [B, N] -> everybody's actions by name."""
    width = max(env.observation_space(agent).shape[0] for agent in learners)
    masks = jnp.ones((num_envs, len(learners), num_actions), bool)

    def stacked(views: Any) -> jax.Array:
        padded = [jnp.pad(views[a], ((0, 0), (0, width - views[a].shape[1]))) for a in learners]
        return jnp.stack(padded, axis=1)

    def reset(key: jax.Array) -> Any:
        views, state = jax.vmap(env.reset)(jax.random.split(key, num_envs))
        return state, stacked(views), masks

    def step(key: jax.Array, state: Any, actions: jax.Array) -> Any:
        played = joint(state, actions)
        views, state, reward, done, _ = jax.vmap(env.step)(jax.random.split(key, num_envs), state, played)
        rewards = jnp.stack([reward[agent] for agent in learners], axis=1).astype(jnp.float32)
        return state, stacked(views), masks, rewards, done["__all__"]

    return PeerWorld(reset, step, len(learners), num_actions)


def jumanji_world(make: Callable[[], Any], num_envs: int) -> PeerWorld:
    """A Jumanji environment under its own `VmapWrapper(AutoResetWrapper(...))`."""
    wrappers = import_extra("jumanji.wrappers", "jumanji")
    bare = make()
    env = wrappers.VmapWrapper(wrappers.AutoResetWrapper(bare))

    def seen(timestep: Any) -> tuple[jax.Array, jax.Array]:
        observation = timestep.observation
        return observation.agents_view.astype(jnp.float32), observation.action_mask

    def reset(key: jax.Array) -> Any:
        state, timestep = env.reset(jax.random.split(key, num_envs))
        return state, *seen(timestep)

    def step(key: jax.Array, state: Any, actions: jax.Array) -> Any:
        del key
        state, timestep = env.step(state, actions)
        return state, *seen(timestep), timestep.reward, timestep.last()

    return PeerWorld(reset, step, bare.num_agents, int(bare.action_spec.num_values[0]))


class _Sample(NamedTuple):
    """Leaves [T, B, N, ...], later [samples, ...]."""

    view: jax.Array
    mask: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array


def peer_ippo(world: PeerWorld, settings: Settings) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(start, update): key -> carry, and carry -> carry for one update of T * B environment steps."""
    optax = import_extra("optax", "test")
    network = _actor_critic(world.num_actions, settings.hidden)
    optimiser = optax.chain(
        optax.clip_by_global_norm(settings.max_grad_norm), optax.adam(settings.learning_rate, eps=1e-5)
    )

    def start(key: jax.Array) -> Any:
        key_world, key_network, key = jax.random.split(key, 3)
        state, view, mask = world.reset(key_world)
        params = network.init(key_network, view[0, 0], mask[0, 0])
        return params, optimiser.init(params), state, view, mask, key

    def update(carry: Any) -> Any:
        params, opt_state, state, view, mask, key = carry

        def play(carry: Any, _: None) -> tuple[Any, _Sample]:
            state, view, mask, key = carry
            key, key_action, key_step = jax.random.split(key, 3)
            logits, value = network.apply(params, view, mask)
            action = jax.random.categorical(key_action, logits)
            log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], -1)[..., 0]
            state, following, following_mask, reward, ended = world.step(key_step, state, action)
            done = jnp.broadcast_to(ended[:, None], reward.shape)
            return (state, following, following_mask, key), _Sample(view, mask, action, log_prob, value, reward, done)

        (state, view, mask, key), data = jax.lax.scan(play, (state, view, mask, key), None, settings.num_steps)
        advantage = _advantages(data, network.apply(params, view, mask)[1], settings)
        data = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[3:]), (data, advantage, advantage + data.value))

        def epoch(carry: Any, key: jax.Array) -> tuple[Any, None]:
            order = jax.random.permutation(key, data[1].shape[0])
            shuffled = jax.tree.map(lambda leaf: jnp.take(leaf, order, axis=0), data)
            parts = jax.tree.map(lambda leaf: leaf.reshape(settings.minibatches, -1, *leaf.shape[1:]), shuffled)

            def step(carry: Any, part: Any) -> tuple[Any, None]:
                params, opt_state = carry
                gradient = jax.grad(_loss)(params, network, *part, settings)
                changes, opt_state = optimiser.update(gradient, opt_state, params)
                return (optax.apply_updates(params, changes), opt_state), None

            return jax.lax.scan(step, carry, parts)

        key, key_epochs = jax.random.split(key)
        keys = jax.random.split(key_epochs, settings.epochs)
        (params, opt_state), _ = jax.lax.scan(epoch, (params, opt_state), keys)
        return params, opt_state, state, view, mask, key

    return start, update


def _actor_critic(num_actions: int, hidden: int) -> Any:
    from flax import linen

    class ActorCritic(linen.Module):
        """Two towers of two tanh layers."""

        @linen.compact
        def __call__(self, view: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
            """Masked logits [..., A] and value [...]."""
            towers = []
            for outputs, scale in ((num_actions, 0.01), (1, 1.0)):
                x = view
                for _ in range(2):
                    x = jnp.tanh(linen.Dense(hidden, kernel_init=linen.initializers.orthogonal(2.0**0.5))(x))
                towers.append(linen.Dense(outputs, kernel_init=linen.initializers.orthogonal(scale))(x))
            return jnp.where(mask, towers[0], -1e9), towers[1][..., 0]

    return ActorCritic()


def _advantages(data: _Sample, last_value: jax.Array, settings: Settings) -> jax.Array:
    """[T, B, N]; an end of any kind counts as termination, as in the peer."""

    def back(carry: Any, sample: Any) -> tuple[Any, jax.Array]:
        advantage, following = carry
        value, reward, done = sample
        delta = reward + settings.discount * following * (1 - done) - value
        advantage = delta + settings.discount * settings.gae_lambda * (1 - done) * advantage
        return (advantage, value), advantage

    start = (jnp.zeros_like(last_value), last_value)
    return jax.lax.scan(back, start, (data.value, data.reward, data.done * 1.0), reverse=True)[1]


def _loss(params: Any, network: Any, data: _Sample, advantage: jax.Array, target: jax.Array, settings: Settings) -> Any:
    logits, value = network.apply(params, data.view, data.mask)
    log_probs = jax.nn.log_softmax(logits)
    ratio = jnp.exp(jnp.take_along_axis(log_probs, data.action[:, None], 1)[:, 0] - data.log_prob)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
    near = data.value + jnp.clip(value - data.value, -settings.clip, settings.clip)
    value_loss = 0.5 * jnp.mean(jnp.maximum(jnp.square(value - target), jnp.square(near - target)))
    entropy = -jnp.mean(jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1))
    policy_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
    return policy_loss + settings.value_coefficient * value_loss - settings.entropy_coefficient * entropy
