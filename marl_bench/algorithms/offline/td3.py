"""TD3 on recorded steps: what the offline learners of continuous actions share.

Sources: Fujimoto et al. 2018 (TD3); the two code bases that the data sets of Pan et al. 2022 (OMAR) and Shao et al. 2023 (CFCQL) came
with. Actions u are in units of the world's bounds (-1 the lower, 1 the upper one). One `update` is

  1. `critic_updates` steps of the twin critics, each on a batch of its own, towards
     y = r + gamma d min_c Q'_c(x', clip(pi'(o') + target_noise * normal, -1, 1));
  2. one step of the policies on the last batch;
  3. one step of all targets.

There are J judges, each with twin critics: one per agent, who sees what the agent sees and does, or one that sees everything
(`central`). A is the number of agents that a judge judges: J A = N.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.algorithms import slots
from marl_bench.algorithms.ddpg import action_bounds, in_bounds
from marl_bench.algorithms.in_turn import in_turn
from marl_bench.algorithms.networked import action_size
from marl_bench.algorithms.networks import Network
from marl_bench.algorithms.offline import batch_norm
from marl_bench.algorithms.offline.critics import TwinCritic, first_critic
from marl_bench.algorithms.offline.minibatch import Minibatch, recorded
from marl_bench.algorithms.offline.offline import OfflineLearner
from marl_bench.datasets.source import OfflineSource
from marl_bench.environment import Environment, Observation, check_choice, check_integer, check_range, field
from marl_bench.learner import TrainState, world_of

NORMALISATIONS = ("dataset", "batch")


@struct.dataclass
class OfflineTD3State(TrainState):
    """Training state; `params` is {"actor", "critic", ...: [G, ...]} and, for acting, "slots", "low", "high", "view".

    Attributes:
      target: {"actor", "critic"} as in `params`, following them slowly.
      opt_state: Adam states by name, [G, ...].
    """

    target: Any
    opt_state: Any


@struct.dataclass
class OfflineTD3(OfflineLearner):
    """Base: independent TD3 without remedies against actions that are not in the data.

    Raises:
      ValueError: for values out of range. TypeError: for values of the wrong type.
    """

    sharing: str = field(
        "independent",
        static=True,
        doc="who shares parameters: shared (all), independent (nobody), types (agents of one role)",
    )
    agent_id: bool = field(False, static=True, doc="append a one-hot agent id to what the network reads")
    recurrent_size: int = field(0, static=True, doc="must be 0: single steps are drawn")
    batch_size: int = field(1024, static=True, doc="steps of a gradient step [n]", unit="steps")
    discount: float = field(0.95, doc="discount factor [gamma], in [0, 1]")
    learning_rate: float = field(1e-3, doc="Adam step size of all networks")
    target_rate: float = field(0.01, doc="part of the way that targets go in an update, in (0, 1]")
    target_noise: float = field(
        0.05, doc="blur of the target policies' actions, standard deviation", unit="half widths of the bounds"
    )
    critic_updates: int = field(5, static=True, doc="steps of the critics in an update")
    action_penalty: float = field(1e-3, doc="weight of the mean square of the policies' actions")
    normalisation: str = field(
        "dataset",
        static=True,
        doc="input of the networks: dataset (standardised by the data set), batch (by each batch, as released)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recurrent_size:
            raise ValueError(
                f"recurrent_size={self.recurrent_size}: must be 0, single steps are drawn (field of {self._kind})"
            )
        if not self.hidden_sizes:
            raise ValueError(f"hidden_sizes=(): must have at least one entry (field of {self._kind})")
        check_integer(self, "critic_updates", 1)
        check_choice(self, "normalisation", NORMALISATIONS)
        check_range(self, "target_rate", 0.0, 1.0, open_low=True)
        for name in ("target_noise", "action_penalty"):
            check_range(self, name, 0.0)

    # --- what learners change ---------------------------------------------------------------------

    @property
    def central(self) -> bool:
        """Whether one judge sees everything."""
        return False

    def read_size(self, env: Environment) -> int:
        """S, numbers that a judge sees."""
        return math.prod(env.observation_shape) + self.ids(env.num_agents).shape[1]

    def seen(self, view: jax.Array, state: jax.Array | None) -> jax.Array:
        """[J, n, S] what judges see of views [n, N, ...] and global states [n, S]."""
        del state
        flat = jnp.swapaxes(view.reshape(*view.shape[:2], -1), 0, 1)
        return jnp.concatenate([flat, slots.over_time(self.ids(view.shape[1]), view.shape[0])], axis=-1)

    def paid(self, reward: jax.Array, discount: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[J, n] what judges count of rewards and discounts [n, N]."""
        return reward.T, discount.T

    def soft_value(
        self, critic: Any, networks: Any, agents: tuple[int, ...], batch: Minibatch, key: jax.Array
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]] | None:
        """[J, C, n] value of actions that need not be in the data, lowered against that of the data, the weight of this; scalars.

        None: nothing is lowered.

        Args:
          critic: the critics that are learned. networks: the others, fixed.
        """
        del critic, networks, agents, batch, key
        return None

    def policy_value(self, critic: Any, agents: tuple[int, ...], batch: Minibatch, new: jax.Array) -> jax.Array:
        """[N, M, n] values of `new` [N, M, n, D], each agent's on its own, by the single critic in `critic`."""
        return self.changed(critic, agents, batch.read, batch.action, new)[:, 0].reshape(new.shape[:3])

    def policy_terms(
        self, action: jax.Array, value: Any, batch: Minibatch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """[N] loss of each agent's policy, scalars.

        Args:
          action: [N, n, D] what the policies do. value: function of other actions [N, M, n, D] -> their values [N, M, n].
        """
        del batch, key
        return -jnp.mean(value(action[:, None]), axis=(1, 2)), {}

    @property
    def needs_next_action(self) -> bool:
        """Whether `Minibatch.next_action` is used."""
        return False

    # --- protocol ---------------------------------------------------------------------------------

    @property
    def actions(self) -> str:
        """ "continuous"."""
        return "continuous"

    def validate(self, environment: Any) -> None:
        """Also check that actions are vectors within finite bounds."""
        super().validate(environment)
        world = world_of(environment)
        if not all(np.isfinite(bound).all() for bound in action_bounds(world)):
            raise ValueError(
                f"{self.name} needs bounded actions, those of {type(world.unwrapped).__name__} have no finite bounds; "
                "use learner=bc"
            )

    def judges(self, agents: tuple[int, ...]) -> tuple[int, ...]:
        """[J] slot of each judge's critics."""
        return (0,) if self.central else agents

    def actor(self, shape: tuple[int, ...], num_agents: int, outputs: int = 0) -> Network:
        """[D] action before tanh; `outputs`: not needed once the parameters exist."""
        return self.network(shape, num_agents, outputs, output_scale=0.01)

    def critic(self, read_size: int, joint_size: int) -> TwinCritic:
        """The critics of a judge who sees S numbers and A D of actions."""
        network = Network((read_size + joint_size,), 1, self.hidden_sizes, self.activation)
        return TwinCritic(network, batch_norm=self.normalisation == "batch")

    def init_networks(self, key: jax.Array, env: Environment) -> dict[str, Any]:
        """Parameters [G, ...] by name; "actor" and "critic" get targets."""
        key_actor, key_critic = jax.random.split(key)
        agents, size = self.slots(env), action_size(env)
        actor = self.init_slots(self.actor(env.observation_shape, env.num_agents, size), key_actor, env)
        norm = {}
        if self.normalisation == "batch":
            shape = (slots.num_slots(agents), *env.observation_shape)
            norm = batch_norm.init(shape)
        judges = self.judges(agents)
        critic = self.critic(self.read_size(env), env.num_agents // len(judges) * size)
        drawn = jax.vmap(critic.init)(jax.random.split(key_critic, slots.num_slots(judges)))
        return {"actor": {"network": actor, "norm": norm}, "critic": drawn}

    def init(self, key: jax.Array, source: OfflineSource) -> OfflineTD3State:
        """Draw networks; targets are copies."""
        env = source.environment
        key_networks, key_run = jax.random.split(key)
        networks = self.init_networks(key_networks, env)
        low, high = action_bounds(env)
        shape = (env.num_agents, *env.observation_shape)
        view = {"mean": jnp.zeros(shape), "std": jnp.ones(shape)}
        if self.normalisation == "dataset":
            view = {"mean": jnp.asarray(source.statistics.view_mean), "std": jnp.asarray(source.statistics.view_std)}
        acting = {
            "slots": jnp.asarray(self.slots(env), jnp.int32),
            "low": jnp.asarray(low),
            "high": jnp.asarray(high),
            "view": view,
        }
        return OfflineTD3State(
            params={**networks, **acting},
            key=key_run,
            updates=jnp.int32(0),
            env_steps=jnp.int32(0),
            target=jax.tree.map(jnp.copy, {name: networks[name] for name in ("actor", "critic")}),
            opt_state={name: slots.adam_init(leaves) for name, leaves in networks.items()},
        )

    # --- acting -----------------------------------------------------------------------------------

    def policy(self, actor: Any, agents: Any, view: jax.Array, running: bool = False) -> jax.Array:
        """[N, n, D] actions in views [N, n, ...] that are standardised by the data set, or (`running`) by running moments."""
        if actor["norm"]:
            view = batch_norm.normalised(actor["norm"], agents, view, running)
        count, length = view.shape[:2]
        network, ids = self.actor(view.shape[2:], count), slots.over_time(self.ids(count), length)
        flags, memory = jnp.zeros(length, bool), self.initial_memory(count)
        return jnp.tanh(slots.unroll(network, agents, actor["network"], memory, view, ids, flags)[1])

    def act(
        self, params: Any, memory: Any, observation: Observation, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """Each agent's action [N, D] from its own view; the same whether greedy or not."""
        del key, greedy
        view = (observation.agents_view - params["view"]["mean"]) / params["view"]["std"]
        action = self.policy(params["actor"], params["slots"], view[:, None], running=True)[:, 0]
        return in_bounds(action, params), memory

    # --- learning ---------------------------------------------------------------------------------

    def joint(self, action: jax.Array) -> jax.Array:
        """[J, n, A D] what judges see of actions [N, n, D]."""
        if not self.central:
            return action
        return jnp.swapaxes(action, 0, 1).reshape(1, action.shape[1], -1)

    def by_judge(self, action: jax.Array) -> jax.Array:
        """[J, A, M, n, D] of [N, M, n, D]."""
        return action[None] if self.central else action[:, None]

    def values(self, critic: Any, agents: tuple[int, ...], read: jax.Array, joint: jax.Array) -> jax.Array:
        """[J, C, n] values by critics [G, C, ...] of joint actions [J, n, A D], seen [J, n, S]."""
        network = self.critic(read.shape[-1], joint.shape[-1])
        return slots.over_agents(network.values, self.judges(agents))(critic, read, joint)

    def changed(
        self, critic: Any, agents: tuple[int, ...], read: jax.Array, action: jax.Array, new: jax.Array
    ) -> jax.Array:
        """[J, C, A, M, n] values of actions [N, n, D] in which one agent's is another one, from `new` [N, M, n, D]."""
        joint = self.joint(action)
        network = self.critic(read.shape[-1], joint.shape[-1])
        return slots.over_agents(network.changed, self.judges(agents))(critic, read, joint, self.by_judge(new))

    def minibatches(self, params: Any, source: OfflineSource, key: jax.Array) -> Minibatch:
        """`critic_updates` batches, leaves [U, ...], drawn at once."""
        size = self.critic_updates * self.batch_size
        drawn = recorded(source, params, key, size, self.normalisation == "dataset", self.needs_next_action)
        reward, discount = self.paid(drawn.reward, drawn.discount)

        def split(leaf: jax.Array) -> jax.Array:
            """[U, X, n, ...] from [X, U n, ...]."""
            leaf = leaf.reshape(leaf.shape[0], self.critic_updates, self.batch_size, *leaf.shape[2:])
            return jnp.swapaxes(leaf, 0, 1)

        def by_agent(leaf: jax.Array) -> jax.Array:
            return split(jnp.swapaxes(leaf, 0, 1))

        return Minibatch(
            view=by_agent(drawn.view),
            next_view=by_agent(drawn.next_view),
            action=by_agent(drawn.action),
            next_action=None if drawn.next_action is None else by_agent(drawn.next_action),
            read=split(self.seen(drawn.view, drawn.state)),
            next_read=split(self.seen(drawn.next_view, drawn.next_state)),
            reward=split(reward),
            discount=split(discount),
        )

    def targets(self, target: Any, agents: tuple[int, ...], batch: Minibatch, key: jax.Array) -> jax.Array:
        """[J, n] r + gamma d min_c Q'_c(x', u'), u' the target policies' blurred actions."""
        action = self.policy(target["actor"], agents, batch.next_view)
        action = jnp.clip(action + self.target_noise * jax.random.normal(key, action.shape), -1.0, 1.0)
        value = self.values(target["critic"], agents, batch.next_read, self.joint(action))
        return batch.reward + self.discount * batch.discount * jnp.min(value, axis=1)

    def critic_loss(
        self, critic: Any, networks: Any, agents: tuple[int, ...], batch: Minibatch, target: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Sum over slots of the mean over steps of sum_c (Q_c - y)^2 + alpha (soft value - Q_c), and scalars to log."""
        value = self.values(critic, agents, batch.read, self.joint(batch.action))
        loss = td = jnp.mean(jnp.sum(jnp.square(value - target[:, None]), axis=1), axis=-1)
        scalars = {"td_loss": jnp.mean(td), "value": jnp.mean(value)}
        soft = self.soft_value(critic, networks, agents, batch, key)
        if soft is not None:
            gap = jnp.mean(soft[0] - value, axis=-1)
            loss = td + soft[1] * jnp.sum(gap, axis=-1)
            scalars |= {"conservative": jnp.mean(gap), **soft[2]}
        return jnp.sum(slots.weights(self.judges(agents)) * loss), scalars

    def policy_loss(
        self, actor: Any, critic: Any, agents: tuple[int, ...], batch: Minibatch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Sum over slots of `policy_terms` (of each agent its share of the judge's) and the penalty; scalars to log."""
        action = self.policy(actor, agents, batch.view)
        first = first_critic(critic)

        def value(new: jax.Array) -> jax.Array:
            return self.policy_value(first, agents, batch, new)

        terms, scalars = self.policy_terms(action, value, batch, key)
        share = len(self.judges(agents)) / len(agents)
        penalty = self.action_penalty * jnp.mean(jnp.square(action), axis=(1, 2))
        scalars |= {
            "policy_loss": jnp.mean(terms),
            "saturated": jnp.mean(jnp.abs(action) > 0.99),
            "distance_to_data": jnp.mean(jnp.abs(action - batch.action)),
        }
        return jnp.sum(slots.weights(agents) * (share * terms + penalty)), scalars

    def learn(
        self, networks: Any, target: Any, opt_state: Any, batches: Minibatch, key: jax.Array, agents: tuple[int, ...]
    ) -> tuple[Any, Any, Any, dict[str, jax.Array]]:
        """Networks, targets and Adam states after one update; scalars to log. `batches`: from `minibatches`."""

        def critic_step(carry: Any, inputs: tuple[Minibatch, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
            critic, adam = carry
            batch, key = inputs
            key_target, key_loss = jax.random.split(key)
            goal = self.targets(target, agents, batch, key_target)
            gradient, scalars = jax.grad(self.critic_loss, has_aux=True)(
                critic, networks, agents, batch, goal, key_loss
            )
            critic, adam, norm = slots.adam_step(critic, gradient, adam, self.learning_rate, self.max_grad_norm)
            return (critic, adam), {**scalars, "critic_gradient_norm": jnp.mean(norm)}

        keys = jax.random.split(key, self.critic_updates + 1)
        start = (networks["critic"], opt_state["critic"])
        (critic, critic_adam), scalars = jax.lax.scan(critic_step, start, (batches, keys[:-1]))
        last = jax.tree.map(lambda leaf: leaf[-1], batches)
        gradient, more = jax.grad(self.policy_loss, has_aux=True)(networks["actor"], critic, agents, last, keys[-1])
        actor, actor_adam, norm = slots.adam_step(
            networks["actor"], gradient, opt_state["actor"], self.learning_rate, self.max_grad_norm
        )
        networks = {**networks, "actor": actor, "critic": critic}
        target = {
            name: jax.tree.map(lambda old, new: old + self.target_rate * (new - old), leaves, networks[name])
            for name, leaves in target.items()
        }
        scalars = {**jax.tree.map(jnp.mean, scalars), **more, "policy_gradient_norm": jnp.mean(norm)}
        return networks, target, {**opt_state, "actor": actor_adam, "critic": critic_adam}, scalars

    def update(self, state: OfflineTD3State, source: OfflineSource) -> tuple[OfflineTD3State, dict[str, jax.Array]]:
        """One update; see the module's docstring."""
        key_batch, key_learn = jax.random.split(jax.random.fold_in(state.key, state.updates))
        agents = self.slots(source.environment)
        batches = self.minibatches(state.params, source, key_batch)
        networks = {name: state.params[name] for name in state.opt_state}
        learn = in_turn(lambda learner, *args: learner.learn(*args, agents))
        networks, target, opt_state, scalars = learn(self, networks, state.target, state.opt_state, batches, key_learn)
        view = state.params["view"]
        if self.normalisation == "batch":
            view = batch_norm.followed(view, batches.view[-1])
        updates = state.updates + 1
        state = dataclasses.replace(
            state,
            params={**state.params, **networks, "view": view},
            updates=updates,
            env_steps=updates,
            target=target,
            opt_state=opt_state,
        )
        return state, scalars
