"""Q-learning from replayed sequences, for many agents: what `iql`, `vdn` and `qmix` share.

Sources: Mnih et al. 2015 (target network), van Hasselt et al. 2016 (double), Hausknecht and Stone 2015 and Kapturowski et al. 2019
(recurrent values, stored state), Peng and Williams 1996 (lambda, uncorrected). One iteration (`update`):

  1. T steps of B environments, epsilon-greedy; each environment's steps are one sequence in the replay;
  2. once `learning_starts` steps were made, `updates_per_step` gradient steps, each on `batch_size` sequences:
     the mean of (Q(s, a) - y)^2, y from the target network;
  3. after every `target_period` gradient steps the target network moves by `target_step` towards the network.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms import ring, rollout, slots
from marl_bench.algorithms.rollout import World
from marl_bench.algorithms.sequence_replay import Sequences
from marl_bench.algorithms.value_based import ValueLearner
from marl_bench.environment import Environment, check_integer, check_range, field
from marl_bench.learner import TrainState


@struct.dataclass
class QState(TrainState):
    """Training state; `params` is {"q": [G, ...], "slots": [N] int32} and what mixes values, if anything.

    Attributes:
      target: the target network, like `params` without "slots".
      opt_state: Adam states by network.
      world: `World`.
      replay: `Sequences` [R, B, ...]: of R updates, of B environments each.
    """

    target: Any
    opt_state: Any
    world: World
    replay: Sequences


@struct.dataclass
class QLearning(ValueLearner):
    """Base of `IQL`, `VDN` and `QMIX`, which differ in how values are joined (`team`, `joint`).

    Raises:
      ValueError: for values out of range. TypeError: for values of the wrong type.
    """

    num_envs: int = field(8, static=True, doc="copies of the environment stepped side by side [B]")
    num_steps: int = field(
        25, static=True, doc="steps of each copy between two updates, one sequence [T]", unit="steps"
    )
    buffer_size: int = field(
        5_000, static=True, doc="sequences in the replay, rounded up to whole roll-outs", unit="sequences"
    )
    batch_size: int = field(32, static=True, doc="sequences of a gradient step", unit="sequences")
    updates_per_step: int = field(1, static=True, doc="gradient steps of an update")
    double: bool = field(
        True, static=True, doc="the network chooses the best next action, the target network values it"
    )
    learning_rate: float = field(5e-4, doc="Adam step size")
    max_grad_norm: float = field(10.0, doc="global L2 norm a gradient is clipped to, per parameter slot")
    learning_starts: int = field(10_000, doc="steps before the first gradient step", unit="steps")
    target_period: int = field(200, doc="gradient steps between two updates of the target network")
    target_step: float = field(1.0, doc="how far the target moves to the network [tau], in (0, 1]; 1 copies it")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("buffer_size", "batch_size", "updates_per_step"):
            check_integer(self, name, 1)
        if not isinstance(self.double, bool):
            raise TypeError(f"double={self.double!r}: must be True or False (field of {self._kind})")
        check_range(self, "learning_starts", 0)
        check_range(self, "target_period", 1)
        check_range(self, "target_step", 0.0, 1.0, open_low=True)

    def init_networks(self, key: jax.Array, source: Environment) -> dict[str, Any]:
        """Networks by name, each with a leading axis of slots."""
        network = self.network(source.observation_shape, source.num_agents, source.num_actions)
        return {"q": self.init_slots(network, key, source)}

    def init(self, key: jax.Array, source: Environment) -> QState:
        """Draw networks and the first state of the world; the replay is empty."""
        key_networks, key_world, key_run = jax.random.split(key, 3)
        networks = self.init_networks(key_networks, source)
        params = {**networks, "slots": jnp.asarray(self.slots(source), jnp.int32)}
        memory = self.initial_memory(source.num_agents)
        world = rollout.start(self.vector(source, self.reads_state), memory, key_world)
        nothing = jnp.int32(0)
        shapes = jax.eval_shape(lambda: _row(self.collect(params, world, nothing, source, key_run)[1]))
        return QState(
            params=params,
            key=key_run,
            updates=nothing,
            env_steps=jnp.int32(0),
            target=jax.tree.map(jnp.copy, networks),
            opt_state={name: slots.adam_init(networks[name]) for name in networks},
            world=world,
            replay=ring.empty(shapes, -(-self.buffer_size // self.num_envs)),
        )

    def loss(
        self, networks: Any, target: Any, env: Environment, batch: Sequences
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean of (Q - y)^2 over sequences [R, ...], and scalars to log; y does not carry a gradient."""

        q, choosing = self.valued(networks, env, batch)
        _, valuing = self.valued(target, env, batch)
        choosing = jax.lax.stop_gradient(choosing) if self.double else valuing

        def of_sequence(sequence: Sequences, q: jax.Array, *following: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self.chosen(networks, sequence, q), self.targets(target, sequence, *following)

        return self.squared_error(env, *jax.vmap(of_sequence, (0, 1, 1, 1))(batch, q, choosing, valuing))

    def update(self, state: QState, source: Environment) -> tuple[QState, dict[str, jax.Array]]:
        """One iteration; see the module's docstring."""
        key_play, key_learn = jax.random.split(jax.random.fold_in(state.key, state.updates))
        world, played, metrics = self.collect(state.params, state.world, state.env_steps, source, key_play)
        replay = ring.write(state.replay, _row(played), state.updates)
        env_steps = state.env_steps + self.update_steps
        started = env_steps >= self.learning_starts

        def step(carry: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
            networks, target, opt_state = carry
            batch = ring.draw(replay, inputs[0], state.updates + 1, self.batch_size)
            gradient, learned = jax.grad(self.loss, has_aux=True)(networks, target, source, batch)
            networks, opt_state, norm = self.stepped(networks, gradient, opt_state, state.env_steps)
            moves = self.target_step * (inputs[1] % self.target_period == 0)
            target = jax.tree.map(lambda old, new: old + moves * (new - old), target, networks)
            # Chosen, not branched over: under `vmap` a branch would be computed anyway.
            following = (networks, target, opt_state)
            return jax.tree.map(lambda new, old: jnp.where(started, new, old), following, carry), {**learned, **norm}

        networks = {name: leaf for name, leaf in state.params.items() if name != "slots"}
        numbers = state.updates * self.updates_per_step + jnp.arange(1, self.updates_per_step + 1)
        carry = (networks, state.target, state.opt_state)
        keys = jax.random.split(key_learn, self.updates_per_step)
        (networks, target, opt_state), learned = jax.lax.scan(step, carry, (keys, numbers))
        state = dataclasses.replace(
            state,
            params={**state.params, **networks},
            updates=state.updates + 1,
            env_steps=env_steps,
            target=target,
            opt_state=opt_state,
            world=world,
            replay=replay,
        )
        return state, {**metrics, **jax.tree.map(jnp.mean, learned)}


def _row(played: Sequences) -> Sequences:
    """[1, B, ...] from [B, ...]: what a ring of sequences is written with."""
    return jax.tree.map(lambda leaf: leaf[None], played)
