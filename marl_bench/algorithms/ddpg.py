"""Deterministic policy gradients for many agents: what `maddpg` and `matd3` share.

Sources: Lillicrap et al. 2016 (DDPG); Lowe et al. 2017 (MADDPG, algorithm 1); Fujimoto et al. 2018 (TD3); Ackermann et al. 2019
(MATD3). With u an action in units of the world's bounds (-1 the lower, 1 the upper one) and x what the critic reads, one iteration
(`update`) is:

  1. T steps of B environments with u = clip(tanh(z(o)) + sigma * normal, -1, 1), stored in a ring;
  2. `updates_per_step` gradient steps for each of the T: the critics follow r + gamma d min_c Q'_c(x', u'_1 ... u'_N), then the
     actors climb Q_1 with the agent's own action replaced by what it would do now; the targets follow slowly.

Networks see u, not the world's action, so nothing depends on the width of the bounds.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.algorithms import ring, rollout, slots
from marl_bench.algorithms.equations import AdamState, linear_schedule
from marl_bench.algorithms.networked import action_size, is_discrete, require_global_state
from marl_bench.algorithms.networks import Network
from marl_bench.algorithms.online import OnlineLearner
from marl_bench.algorithms.ring import Transitions
from marl_bench.algorithms.rollout import World
from marl_bench.environment import Environment, Observation, check_choice, check_integer, check_range, field
from marl_bench.learner import TrainState

CRITIC_INPUTS = ("state", "views", "own")


@struct.dataclass
class DDPGState(TrainState):
    """Training state; `params` is {"actor": [G, ...], "critic": [G, C, ...], "slots": [N], "low": [N, D], "high": [N, D]}.

    Attributes:
      target: {"actor", "critic"} as in `params`, following them slowly.
      opt_state: {"actor", "critic"}, Adam states [G, ...].
      world: `World`.
      replay: `Transitions` with leaves [R, B, ...].
    """

    target: Any
    opt_state: dict[str, AdamState]
    world: World
    replay: Transitions


@struct.dataclass
class DDPG(OnlineLearner):
    """Base of `MADDPG` and `MATD3`: one critic, an actor step after each critic step, no target smoothing.

    Raises:
      ValueError: for values out of range. TypeError: for values of the wrong type.
    """

    num_steps: int = field(16, static=True, doc="steps of each copy between two updates [T]", unit="steps")
    sharing: str = field(
        "independent",
        static=True,
        doc="who shares parameters: shared (all), independent (nobody), types (agents of one role)",
    )
    activation: str = field("relu", static=True, doc="of the dense layers: relu, tanh")
    recurrent_size: int = field(0, static=True, doc="must be 0: single transitions are replayed")
    evaluation_greedy: bool = field(True, static=True, doc="evaluate without exploration noise")
    discount: float = field(0.95, doc="discount factor [gamma], in [0, 1]")
    learning_rate: float = field(3e-4, doc="Adam step size of the actors")
    critic_input: str = field(
        "state",
        static=True,
        doc="the critic reads the global state, all agents' views, or the agent's own view and action",
    )
    buffer_steps: int = field(8192, static=True, doc="length of the replay, in steps of all copies [R]", unit="steps")
    batch_size: int = field(256, static=True, doc="transitions of a gradient step [n]", unit="transitions")
    updates_per_step: int = field(1, static=True, doc="gradient steps for each step of the copies")
    learning_starts: int = field(
        5_000, doc="steps of all copies before learning; until then actions are uniform", unit="steps"
    )
    critic_learning_rate: float = field(1e-3, doc="Adam step size of the critics")
    target_rate: float = field(0.01, doc="part of the way that targets go in a step [tau], in (0, 1]")
    noise: float = field(
        0.3, doc="exploration, standard deviation at the start [sigma]", unit="half widths of the bounds"
    )
    noise_final: float = field(0.1, doc="exploration after noise_steps", unit="half widths of the bounds")
    noise_steps: int = field(200_000, doc="steps over which the exploration changes linearly", unit="steps")
    action_penalty: float = field(1e-3, doc="weight of the mean square of the actor's output before tanh")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recurrent_size:
            raise ValueError(
                f"recurrent_size={self.recurrent_size}: must be 0, single transitions are replayed; for a memory use "
                f"learner=ippo or learner=mappo (field of {self._kind})"
            )
        check_choice(self, "critic_input", CRITIC_INPUTS)
        for name in ("buffer_steps", "batch_size", "updates_per_step"):
            check_integer(self, name, 1)
        if self.buffer_steps % self.num_steps:
            raise ValueError(
                f"buffer_steps={self.buffer_steps}: must be a multiple of num_steps={self.num_steps} (fields of {self._kind})"
            )
        for name in ("learning_starts", "noise", "noise_final", "action_penalty"):
            check_range(self, name, 0.0)
        check_range(self, "critic_learning_rate", 0.0, open_low=True)
        check_range(self, "target_rate", 0.0, 1.0, open_low=True)
        check_range(self, "noise_steps", 1)

    # --- what MATD3 changes ----------------------------------------------------------------------

    @property
    def num_critics(self) -> int:
        """C, critics of an agent; their smallest value is the target."""
        return 1

    @property
    def delay(self) -> int:
        """Critic steps before each step of the actors and the targets."""
        return 1

    def target_action(self, action: jax.Array, key: jax.Array) -> jax.Array:
        """[N, n, D] the action judged in the target, from the target policy's."""
        del key
        return action

    # --- sizes and networks ----------------------------------------------------------------------

    @property
    def reads_state(self) -> bool:
        """Whether the critic reads the global state."""
        return self.critic_input == "state"

    def validate(self, environment: Environment) -> None:
        """Also check that actions are vectors within finite bounds and that the critic finds its input."""
        super().validate(environment)
        name, learner = type(environment.unwrapped).__name__, self._kind.lower()
        if is_discrete(environment):
            option = getattr(environment.unwrapped, "actions", None) == "discrete"
            instead = "env.actions=continuous, or " if option else ""
            raise ValueError(
                f"{learner} needs continuous actions, {name} has discrete ones; use {instead}learner=vdn or ippo"
            )
        if not all(np.isfinite(bound).all() for bound in action_bounds(environment)):
            raise ValueError(
                f"{learner} needs bounded actions, those of {name} have no finite bounds; use learner=ippo"
            )
        if self.reads_state:
            require_global_state(environment, learner, f"{learner} learner.critic_input=views")

    def actor(self, shape: tuple[int, ...], num_agents: int, outputs: int) -> Network:
        """[D] action before tanh, from a view of `shape`."""
        return self.network(shape, num_agents, outputs, output_scale=0.01)

    def critic(self, env: Environment) -> Network:
        """[1] value of an agent's action; one that reads everything also reads all actions."""
        count, size = env.num_agents, action_size(env)
        if self.critic_input == "own":
            return self.network(env.observation_shape, count, 1, extra=size)
        if self.reads_state:
            width = require_global_state(env, self._kind.lower(), "ippo")
        else:
            width = count * math.prod(env.observation_shape)
        network = self.network((width,), count, 1)
        return dataclasses.replace(network, channels=(), extra=count * size + self.judged(env).shape[1])

    def judged(self, env: Environment) -> jax.Array:
        """[N, E] float32: what tells a critic whom it judges; nothing if nobody shares it, or as `agent_id` says if it is "own"."""
        if self.critic_input == "own":
            return self.ids(env.num_agents)
        alone = slots.num_slots(self.slots(env)) == env.num_agents
        return jnp.zeros((env.num_agents, 0)) if alone else jnp.eye(env.num_agents)

    def init(self, key: jax.Array, source: Environment) -> DDPGState:
        """Draw networks and the first state of the world; an empty replay."""
        key_actor, key_critic, key_world, key_run = jax.random.split(key, 4)
        agents, critic = self.slots(source), self.critic(source)
        actor = self.actor(source.observation_shape, source.num_agents, action_size(source))
        keys = jax.random.split(key_critic, (slots.num_slots(agents), self.num_critics))
        networks = {
            "actor": self.init_slots(actor, key_actor, source),
            "critic": jax.vmap(jax.vmap(critic.init))(keys),
        }
        low, high = action_bounds(source)
        params = {
            **networks,
            "slots": jnp.asarray(agents, jnp.int32),
            "low": jnp.asarray(low),
            "high": jnp.asarray(high),
        }
        world = rollout.start(self.vector(source, self.reads_state), self.initial_memory(source.num_agents), key_world)
        shapes = jax.eval_shape(lambda: self.play(params, world, source, jnp.int32(0), key)[1])
        return DDPGState(
            params=params,
            key=key_run,
            updates=jnp.int32(0),
            env_steps=jnp.int32(0),
            target=jax.tree.map(jnp.copy, networks),
            opt_state={name: slots.adam_init(networks[name]) for name in networks},
            world=world,
            replay=ring.empty(shapes, self.buffer_steps),
        )

    # --- acting ----------------------------------------------------------------------------------

    def outputs(self, actor: Any, agents: Any, view: jax.Array, size: int = 0) -> jax.Array:
        """[N, n, D] actions before tanh, from views [N, n, ...]; `size`: D, not needed once the parameters exist."""
        count, length = view.shape[:2]
        network, ids = self.actor(view.shape[2:], count, size), slots.over_time(self.ids(count), length)
        flags = jnp.zeros(length, bool)
        return slots.unroll(network, agents, actor, self.initial_memory(count), view, ids, flags)[1]

    def act(
        self, params: Any, memory: Any, observation: Observation, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """Each agent's action [N, D] from its own view; if not greedy, with noise of `noise_final`."""
        action = jnp.tanh(self.outputs(params["actor"], params["slots"], observation.agents_view[:, None])[:, 0])
        if not greedy:
            action = jnp.clip(action + self.noise_final * jax.random.normal(key, action.shape), -1.0, 1.0)
        return in_bounds(action, params), memory

    def play(
        self, params: Any, world: World, source: Environment, env_steps: jax.Array, key: jax.Array
    ) -> tuple[World, Transitions, dict[str, jax.Array]]:
        """T steps of B environments: the world after them, `Transitions` with leaves [T, B, ...], metrics."""
        sigma = linear_schedule(self.noise, self.noise_final, env_steps, self.noise_steps)

        def act(observation: Observation, is_first: jax.Array, memory: jax.Array, normal: jax.Array) -> Any:
            del is_first
            views = jnp.swapaxes(observation.agents_view, 0, 1)
            action = jnp.swapaxes(jnp.tanh(self.outputs(params["actor"], self.slots(source), views)), 0, 1)
            # erf(z / sqrt 2) of a normal number is uniform on (-1, 1).
            uniform = jax.lax.erf(normal * math.sqrt(0.5))
            action = jnp.where(env_steps < self.learning_starts, uniform, jnp.clip(action + sigma * normal, -1.0, 1.0))
            return in_bounds(action, params), memory, action

        shape = (self.num_steps, self.num_envs, source.num_agents, action_size(source))
        vector = self.vector(source, self.reads_state)
        world, steps, metrics = rollout.collect(vector, world, act, jax.random.normal(key, shape))
        return world, ring.of_steps(steps), {**metrics, "noise": sigma}

    # --- learning --------------------------------------------------------------------------------

    def joint(self, own: jax.Array, others: jax.Array) -> jax.Array:
        """What each agent's critic reads of the actions: [N, n, N * D], or [N, n, D] with critic_input="own".

        Args:
          own: [N, n, D] the judged agent's action. others: [N, n, D] where all others' are taken from.
        """
        if self.critic_input == "own":
            return own
        count, length, size = own.shape
        judged = jnp.eye(count, dtype=bool)[:, None, :, None]
        joint = jnp.where(judged, own[:, :, None], jnp.swapaxes(others, 0, 1)[None])
        return joint.reshape(count, length, count * size)

    def values(
        self, critic: Any, env: Environment, view: jax.Array, state: jax.Array | None, joint: jax.Array
    ) -> jax.Array:
        """[N, n, C] values by each critic [G, C, ...] of actions from `joint`, in views [N, n, ...] and states [n, S]."""
        count, length = view.shape[:2]
        extra = jnp.concatenate([joint, slots.over_time(self.judged(env), length)], axis=-1)
        read, flags, network = view, jnp.zeros(length, bool), self.critic(env)
        if self.critic_input == "views":
            state = jnp.swapaxes(view, 0, 1).reshape(length, -1)
        if self.critic_input != "own":
            assert state is not None
            read = jnp.broadcast_to(state, (count, *state.shape))

        def one(params: Any, read: jax.Array, extra: jax.Array) -> jax.Array:
            by_critic = lambda p: network.unroll(p, network.initial_memory(), read, flags, extra)[1][..., 0]  # noqa: E731
            return jax.vmap(by_critic, out_axes=-1)(params)

        return slots.over_agents(one, self.slots(env))(critic, read, extra)

    def targets(self, target: Any, env: Environment, batch: Transitions, key: jax.Array) -> jax.Array:
        """[N, n] r + gamma d min_c Q'_c(x', u'), u' the target policies' actions (Fujimoto et al. 2018, eq. 10)."""
        action = jnp.tanh(self.outputs(target["actor"], self.slots(env), batch.next_view))
        action = self.target_action(action, key)
        value = self.values(target["critic"], env, batch.next_view, batch.next_state, self.joint(action, action))
        return batch.reward + self.discount * batch.discount * jnp.min(value, axis=-1)

    def critic_loss(
        self, critic: Any, env: Environment, batch: Transitions, target: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Sum over slots of the mean over samples of sum_c (Q_c - y)^2 (Lowe et al. 2017, eq. 6), and scalars to log."""
        value = self.values(critic, env, batch.view, batch.state, self.joint(batch.action, batch.action))
        by_agent = jnp.mean(jnp.sum(jnp.square(value - target[..., None]), axis=-1), axis=-1)
        scalars = {"critic_loss": jnp.mean(by_agent), "q_value": jnp.mean(value)}
        return jnp.sum(slots.weights(self.slots(env)) * by_agent), scalars

    def actor_loss(
        self, actor: Any, critic: Any, env: Environment, batch: Transitions
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Sum over slots of the mean of -Q_1(x, u_1 .. tanh(z_i) .. u_N) + penalty z_i^2, and scalars to log.

        The other agents' actions are the stored ones (Lowe et al. 2017, algorithm 1); the penalty is that of the paper's code.
        """
        output = self.outputs(actor, self.slots(env), batch.view)
        joint = self.joint(jnp.tanh(output), batch.action)
        value = self.values(critic, env, batch.view, batch.state, joint)[..., 0]
        loss = jnp.mean(-value, axis=-1) + self.action_penalty * jnp.mean(jnp.square(output), axis=(1, 2))
        scalars = {"actor_loss": jnp.mean(loss), "saturated": jnp.mean(jnp.abs(jnp.tanh(output)) > 0.99)}
        return jnp.sum(slots.weights(self.slots(env)) * loss), scalars

    def learn(
        self, networks: Any, target: Any, opt_state: Any, env: Environment, batches: Any, key: jax.Array
    ) -> tuple[Any, Any, Any, dict[str, jax.Array]]:
        """`delay` critic steps, then one step of the actors and of all targets.

        Args:
          networks, target, opt_state: {"actor", "critic"}.
          batches: function of a key -> `Transitions`.
        Returns:
          networks, target, opt_state, scalars to log.
        """

        def critic_step(carry: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            critic, adam = carry
            key_batch, key_target = jax.random.split(key)
            batch = batches(key_batch)
            goal = self.targets(target, env, batch, key_target)
            gradient, scalars = jax.grad(self.critic_loss, has_aux=True)(critic, env, batch, goal)
            critic, adam, norm = slots.adam_step(critic, gradient, adam, self.critic_learning_rate, self.max_grad_norm)
            return (critic, adam), {**scalars, "critic_gradient_norm": jnp.mean(norm)}

        key_critic, key_actor = jax.random.split(key)
        start = (networks["critic"], opt_state["critic"])
        (critic, critic_adam), scalars = jax.lax.scan(critic_step, start, jax.random.split(key_critic, self.delay))
        gradient, more = jax.grad(self.actor_loss, has_aux=True)(networks["actor"], critic, env, batches(key_actor))
        actor, actor_adam, norm = slots.adam_step(
            networks["actor"], gradient, opt_state["actor"], self.learning_rate, self.max_grad_norm
        )
        networks = {"actor": actor, "critic": critic}
        target = jax.tree.map(lambda old, new: old + self.target_rate * (new - old), target, networks)
        scalars = {**jax.tree.map(jnp.mean, scalars), **more, "actor_gradient_norm": jnp.mean(norm)}
        return networks, target, {"actor": actor_adam, "critic": critic_adam}, scalars

    def update(self, state: DDPGState, source: Environment) -> tuple[DDPGState, dict[str, jax.Array]]:
        """One iteration; see the module's docstring."""
        key_play, key_learn = jax.random.split(jax.random.fold_in(state.key, state.updates))
        world, steps, played = self.play(state.params, state.world, source, state.env_steps, key_play)
        replay = ring.write(state.replay, steps, state.updates)
        rows, env_steps = (state.updates + 1) * self.num_steps, state.env_steps + self.update_steps

        def learn(carry: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            networks, target, opt_state = carry
            batches = lambda key: ring.sample(replay, key, rows, self.batch_size)  # noqa: E731
            *carry, scalars = self.learn(networks, target, opt_state, source, batches, key)
            return tuple(carry), scalars

        networks = {name: state.params[name] for name in ("actor", "critic")}
        before = (networks, state.target, state.opt_state)
        rounds = self.num_steps * self.updates_per_step // self.delay
        after, learned = jax.lax.scan(learn, before, jax.random.split(key_learn, rounds))
        # A branch would compute both sides in a pack of cells anyway.
        ready = env_steps >= self.learning_starts
        chosen: tuple[Any, Any, Any] = jax.tree.map(lambda new, old: jnp.where(ready, new, old), after, before)
        networks, target, opt_state = chosen
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
        return state, {**played, **jax.tree.map(jnp.mean, learned)}


def action_bounds(env: Environment) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest action, [N, D] float32 each."""
    spec = env.action_spec
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), spec.shape) for bound in (spec.minimum, spec.maximum))
    return low, high


def in_bounds(action: jax.Array, params: Any) -> jax.Array:
    """The world's actions [..., N, D] of actions in units of the bounds."""
    low, high = params["low"], params["high"]
    return low + 0.5 * (action + 1.0) * (high - low)
