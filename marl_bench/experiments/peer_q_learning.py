"""Recurrent IQL and VDN as JaxMARL 0.2.0 has them, on its own environment: the peer that `marl-bench bench learners` times.

Written anew after the hyperparameters and the order of work of its published baselines (`baselines/QLearning`), without their code: a
dense layer, a GRU of flax and a linear output, shared by agents that are mapped over; the package's own wrappers for batches, agent
ids, team rewards and logs; all copies reset before every roll-out of one whole episode; a ring of episodes (ours; theirs is
flashbax's) that starts every memory at zero; one gradient step of optax's clipped RAdam an update, behind a branch until learning
starts; the target network behind a branch; and tests of the greedy policy. Nothing is left out that a user of the peer would run but
what nobody reads: the global view is not stored (QMIX reads it), and there is no logging.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from marl_bench.adapters.extras import import_extra


@dataclasses.dataclass(frozen=True)
class QSettings:
    """Hyperparameters; the defaults are JaxMARL's for recurrent IQL, VDN and QMIX on `MPE_simple_spread_v3`.

    But `learning_starts`, 10,000 steps there: what is timed is the loop that learns, which is 99.9 % of a run of 10^7 steps.
    """

    team: bool = True
    num_envs: int = 8
    num_steps: int = 26
    buffer_size: int = 5_000
    batch_size: int = 32
    hidden: int = 64
    initial_epsilon: float = 1.0
    final_epsilon: float = 0.05
    exploration_share: float = 0.1
    max_grad_norm: float = 25.0
    target_period: int = 200
    target_step: float = 1.0
    learning_rate: float = 0.005
    discount: float = 0.9
    total_steps: int = 10_000_000
    learning_starts: int = 0
    test_envs: int = 512
    test_steps: int = 30

    @property
    def num_updates(self) -> int:
        """Updates of a whole run."""
        return self.total_steps // (self.num_envs * self.num_steps)


class _Episode(NamedTuple):
    """One roll-out, leaves [T, N, B, ...] (reward [T, N or 1, B], done [T, B] before the step, over [T, B] after it)."""

    view: jax.Array
    mask: jax.Array
    action: jax.Array
    reward: jax.Array
    done: jax.Array
    over: jax.Array


def peer_q_learning(
    name: str, settings: QSettings
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """(start, update, test) for a JaxMARL environment: key -> carry, carry -> carry for one update, and for one test."""
    trainer = _Trainer(name, settings)
    return trainer.start, trainer.update, trainer.test


class _Carry(NamedTuple):
    """Where training stands: networks, replay with leaves [rows, T, ...], updates done, and the outcome of the last test."""

    params: Any
    target: Any
    opt_state: Any
    ring: _Episode
    updates: jax.Array
    tested: Any
    key: jax.Array


class _Trainer:
    """The loop as pure methods."""

    def __init__(self, name: str, settings: QSettings) -> None:
        optax = import_extra("optax", "test")
        wrappers = import_extra("jaxmarl.wrappers.baselines", "jaxmarl")
        game = wrappers.MPELogWrapper(import_extra("jaxmarl", "jaxmarl").make(name))
        self.settings, self.optax, self.agents = settings, optax, list(game.agents)
        self.rows = settings.buffer_size // settings.num_envs * settings.num_envs
        self.batch = wrappers.CTRolloutManager(game, batch_size=settings.num_envs)
        self.tests = wrappers.CTRolloutManager(game, batch_size=settings.test_envs)
        self.network = _recurrent_values(self.batch.max_action_space, settings.hidden)
        # Over agents: memory [N, B, H], views [N, T, B, O], starts [N, T, B].
        self.values = jax.vmap(self.network.apply, (None, 0, 0, 0))
        decay = optax.linear_schedule(settings.learning_rate, 1e-10, settings.num_updates)
        self.optimiser = optax.chain(optax.clip_by_global_norm(settings.max_grad_norm), optax.radam(decay))
        length = settings.exploration_share * settings.num_updates
        self.explore = optax.linear_schedule(settings.initial_epsilon, settings.final_epsilon, length)

    def start(self, key: jax.Array) -> _Carry:
        """Networks, and an empty ring."""
        settings = self.settings
        key_network, key = jax.random.split(key)
        nothing = jnp.zeros((1, settings.hidden)), jnp.zeros((1, 1, self.batch.obs_size)), jnp.zeros((1, 1), bool)
        params = self.network.init(key_network, *nothing)

        def stored() -> Any:
            episode, info = self.play(self.batch, key, params, settings.num_steps, 1.0)
            return jax.tree.map(_rows_first, episode), info

        shapes, info = jax.eval_shape(stored)
        ring = jax.tree.map(lambda leaf: jnp.zeros((self.rows, *leaf.shape[1:]), leaf.dtype), shapes)
        tested = {name: jnp.zeros(()) for name in info}
        target = jax.tree.map(jnp.copy, params)
        return _Carry(params, target, self.optimiser.init(params), ring, jnp.int32(0), tested, key)

    def update(self, carry: _Carry) -> _Carry:
        """One roll-out of whole episodes, one gradient step."""
        settings = self.settings
        key, key_play, key_sample = jax.random.split(carry.key, 3)
        episode, _ = self.play(self.batch, key_play, carry.params, settings.num_steps, self.explore(carry.updates))
        places = (carry.updates * settings.num_envs + jnp.arange(settings.num_envs)) % self.rows
        ring = jax.tree.map(lambda stored, new: stored.at[places].set(_rows_first(new)), carry.ring, episode)
        count = carry.updates + 1

        def learn(params: Any, opt_state: Any) -> Any:
            filled = jnp.minimum(count * settings.num_envs, self.rows)
            drawn = jax.random.randint(key_sample, (settings.batch_size,), 0, filled)
            sample = jax.tree.map(lambda leaf: _rows_last(leaf[drawn]), ring)
            gradient = jax.grad(_td_loss)(params, carry.target, self.values, sample, settings)
            changes, opt_state = self.optimiser.update(gradient, opt_state, params)
            return self.optax.apply_updates(params, changes), opt_state

        learning = count * settings.num_envs * settings.num_steps > settings.learning_starts
        params, opt_state = jax.lax.cond(learning, learn, lambda *same: same, carry.params, carry.opt_state)
        target = jax.lax.cond(
            count % settings.target_period == 0,
            lambda: self.optax.incremental_update(params, carry.target, settings.target_step),
            lambda: carry.target,
        )
        return _Carry(params, target, opt_state, ring, count, carry.tested, key)

    def test(self, carry: _Carry) -> _Carry:
        """Means over the episodes that the greedy policy ends."""
        key, key_test = jax.random.split(carry.key)
        _, info = self.play(self.tests, key_test, carry.params, self.settings.test_steps, None)
        ended = info["returned_episode"]
        tested = jax.tree.map(lambda leaf: jnp.nanmean(jnp.where(ended, leaf, jnp.nan)), info)
        return carry._replace(tested=tested, key=key)

    def play(self, manager: Any, key: jax.Array, params: Any, steps: int, epsilon: Any) -> tuple[_Episode, Any]:
        """`steps` steps of all copies from fresh starts, and what the log says; `epsilon` None plays greedily."""
        key_start, key = jax.random.split(key)
        views, state = manager.batch_reset(key_start)
        before = jnp.zeros((len(self.agents), manager.batch_size), bool)
        memory = jnp.zeros((*before.shape, self.settings.hidden))

        def step(carry: Any, _: None) -> Any:
            memory, view, before, state, key = carry
            key, key_action, key_step = jax.random.split(key, 3)
            memory, q = self.values(params, memory, view[:, None], before[:, None])
            mask = self.stacked(manager.get_valid_actions(state.env_state))
            action = _greedy(q[:, 0], mask)
            if epsilon is not None:
                action = _explored(key_action, action, mask, epsilon)
            joint = dict(zip(self.agents, action, strict=True))
            following, state, reward, done, info = manager.batch_step(key_step, state, joint)
            paid = reward["__all__"][None] if self.settings.team else self.stacked(reward)
            sample = _Episode(view, mask, action, paid, before[0], done["__all__"])
            return (memory, self.stacked(following), self.stacked(done), state, key), (sample, info)

        return jax.lax.scan(step, (memory, self.stacked(views), before, state, key), None, steps)[1]

    def stacked(self, by_agent: Any) -> jax.Array:
        """[N, B, ...] from arrays by agent."""
        return jnp.stack([by_agent[agent] for agent in self.agents])


def _rows_first(leaf: jax.Array) -> jax.Array:
    """[T, (N,) B, ...] -> [B, T, (N,) ...]."""
    return jnp.moveaxis(leaf, 1 if leaf.ndim == 2 else 2, 0)


def _rows_last(leaf: jax.Array) -> jax.Array:
    """[R, T, (N,) ...] -> [T, (N,) R, ...]."""
    return jnp.moveaxis(leaf, 0, 1 if leaf.ndim == 2 else 2)


def _recurrent_values(num_actions: int, hidden: int) -> Any:
    from flax import linen

    class Memory(linen.Module):
        """A GRU that is cleared where an episode starts, one step."""

        @linen.compact
        def __call__(self, memory: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            x, cleared = inputs
            return linen.GRUCell(hidden)(jnp.where(cleared[..., None], 0.0, memory), x)

    over_time = linen.scan(Memory, variable_broadcast="params", split_rngs={"params": False})

    class Values(linen.Module):
        """Memory [B, H] and action values [T, B, A] from memory [B, H], views [T, B, O] and starts [T, B]."""

        @linen.compact
        def __call__(self, memory: jax.Array, view: jax.Array, cleared: jax.Array) -> tuple[jax.Array, jax.Array]:
            orthogonal = linen.initializers.orthogonal(1.0)
            x = linen.relu(linen.Dense(hidden, kernel_init=orthogonal)(view))
            memory, x = over_time()(memory, (x, cleared))
            return memory, linen.Dense(num_actions, kernel_init=orthogonal)(x)

    return Values()


def _greedy(q: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.argmax(q - 1e10 * (1 - mask), axis=-1)


def _explored(key: jax.Array, action: jax.Array, mask: jax.Array, epsilon: jax.Array | float) -> jax.Array:
    """[N, B] actions, each with chance `epsilon` a uniform legal one, drawn copy by copy."""
    key_action, key_whether = jax.random.split(key)

    def anything(key: jax.Array, mask: jax.Array) -> jax.Array:
        return jax.random.choice(key, mask.shape[-1], p=mask / jnp.sum(mask))

    keys = jax.random.split(key_action, action.shape)
    return jnp.where(
        jax.random.uniform(key_whether, action.shape) < epsilon, jax.vmap(jax.vmap(anything))(keys, mask), action
    )


def _td_loss(params: Any, target: Any, values: Callable[..., Any], sample: _Episode, settings: QSettings) -> jax.Array:
    """Mean of (Q - y)^2 over all steps but the last; double Q-learning; an end of any kind counts as termination."""
    by_agent = [jnp.moveaxis(leaf, 1, 0) for leaf in (sample.view, sample.mask, sample.action)]
    view, mask, action = by_agent
    count, _, rows = action.shape
    memory = jnp.zeros((count, rows, settings.hidden))
    before = jnp.broadcast_to(sample.done, action.shape)
    q, frozen = (values(networks, memory, view, before)[1] for networks in (params, target))
    chosen, following = (
        jnp.take_along_axis(table, best[..., None], axis=-1)[..., 0]
        for table, best in ((q, action), (frozen, _greedy(q, mask)))
    )
    if settings.team:
        chosen, following = chosen.sum(axis=0, keepdims=True), following.sum(axis=0, keepdims=True)
    goal = jnp.moveaxis(sample.reward, 1, 0)[:, :-1] + settings.discount * (1 - sample.over[:-1]) * following[:, 1:]
    return jnp.mean(jnp.square(chosen[:, :-1] - jax.lax.stop_gradient(goal)))
