"""Proximal policy optimisation for many agents: what `ippo` and `mappo` share.

Sources: Schulman et al. 2017 (PPO, eq. 7), 2016 (GAE); de Witt et al. 2020 (IPPO); Yu et al. 2022 (MAPPO: value normalisation,
what the critic reads). One iteration (`update`):

  1. T steps of B environments with actions from the current policy;
  2. values of every view and of its true successor; advantages; targets;
  3. `epochs` times over the data in `minibatches` parts: clipped policy loss, value loss, entropy, one Adam step each.

A minibatch's sample is one step of one environment; with a GRU its whole sequence, from the memory that it began with.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench import sharding
from marl_bench.algorithms import rollout, slots, value_units
from marl_bench.algorithms.distributions import Categorical, Normal
from marl_bench.algorithms.equations import AdamState, gae, global_norm
from marl_bench.algorithms.networked import action_size, is_discrete
from marl_bench.algorithms.networks import Network
from marl_bench.algorithms.online import OnlineLearner
from marl_bench.algorithms.rollout import Steps, World
from marl_bench.algorithms.shuffle import in_minibatches
from marl_bench.environment import Environment, Observation, check_choice, check_integer, check_range, field
from marl_bench.learner import TrainState

ADVANTAGES = ("minibatch", "agent", "none")


@struct.dataclass
class PPOState(TrainState):
    """Training state; `params` is {"actor": [G, ...], "critic": [G, ...], "slots": [N] int32}.

    Attributes:
      opt_state: [G, ...] Adam state.
      world: `World`; its memory is the actor's.
      critic_memory: [B, N, H] float32.
      value_stats: [3] float32, running mean, mean square and weight of the value targets.
    """

    opt_state: AdamState
    world: World
    critic_memory: jax.Array
    value_stats: jax.Array


@struct.dataclass
class Batch:
    """Samples with leaves [T', R, N, ...]: R rows of N agents, T' steps each (1 without a memory).

    Attributes:
      view, mask, action, log_prob, advantage, value, target: of each step and agent.
      is_first: [T', R] bool.
      state: [T', R, S] global state, or None.
      memory: [1, R, N, 2, H] memories of actor and critic before the first step.
    """

    view: jax.Array
    mask: jax.Array
    state: jax.Array | None
    is_first: jax.Array
    action: jax.Array
    log_prob: jax.Array
    advantage: jax.Array
    value: jax.Array
    target: jax.Array
    memory: jax.Array


@struct.dataclass
class PPO(OnlineLearner):
    """Base of `IPPO` and `MAPPO`, which differ in what the critic reads.

    Raises:
      ValueError: for values out of range. TypeError: for values of the wrong type.
    """

    epochs: int = field(4, static=True, doc="passes over the data of an update [K]")
    minibatches: int = field(4, static=True, doc="parts of a pass, one gradient step each")
    advantages: str = field(
        "minibatch", static=True, doc="normalised over the minibatch, over each agent's part of it ('agent'), or 'none'"
    )
    normalize_values: bool = field(False, static=True, doc="learn values in units of the running scale of the targets")
    gradient_norms: bool = field(
        False,
        static=True,
        doc="log the norm of each agent's own share of the gradient (before the first step; costs one pass an agent)",
    )
    gae_lambda: float = field(0.95, doc="weight of longer returns [lambda], in [0, 1]")
    clip: float = field(0.2, doc="clipping of the probability ratio [epsilon]")
    value_clip: float | None = field(0.2, doc="clipping of the change of a value; None for none")
    entropy_coefficient: float = field(0.01, doc="weight of the entropy bonus", unit="1/nat")
    kl_coefficient: float | None = field(
        None, doc="weight of the divergence of the new policy from the old one; None for none", unit="1/nat"
    )
    initial_log_std: float = field(0.0, doc="logarithm of the standard deviation of a continuous action at the start")
    value_coefficient: float = field(0.5, doc="weight of the value loss")
    log_std: str = field(
        "free",
        static=True,
        doc="standard deviation of a continuous action: free parameters, or 'state': by the network",
    )
    anneal_steps: int | None = field(
        None, doc="the step size falls linearly to 0 over so many steps; None keeps it", unit="steps"
    )
    adam_epsilon: float = field(1e-5, doc="Adam's epsilon")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "minibatches"):
            check_integer(self, name, 1)
        check_choice(self, "advantages", ADVANTAGES)
        check_choice(self, "log_std", ("free", "state"))
        check_range(self, "initial_log_std")
        check_range(self, "kl_coefficient", 0.0)
        for name in ("normalize_values", "gradient_norms"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}={getattr(self, name)!r}: must be True or False (field of {self._kind})")
        check_range(self, "gae_lambda", 0.0, 1.0)
        for name in ("entropy_coefficient", "value_coefficient"):
            check_range(self, name, 0.0)
        for name in ("clip", "value_clip", "adam_epsilon"):
            check_range(self, name, 0.0, open_low=True)
        check_range(self, "anneal_steps", 1)
        self._check_minibatches(self.minibatches)

    # --- networks --------------------------------------------------------------------------------

    @property
    def reads_state(self) -> bool:
        """Whether the critic reads the global state instead of the agent's view."""
        return False

    def actor(self, shape: tuple[int, ...], num_agents: int, outputs: int) -> Network:
        """Logits of the actions, or means of the entries of a continuous action, from a view of `shape`."""
        return self.network(shape, num_agents, outputs, output_scale=0.01)

    def critic(self, env: Environment) -> Network:
        """[1] value of an agent's view."""
        return self.network(env.observation_shape, env.num_agents, 1)

    def critic_inputs(self, view: jax.Array, state: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """What the critic reads [T, R, N, ...] and appends [N, E], from views [T, R, N, ...] and states [T, R, S]."""
        del state
        return view, self.ids(view.shape[2])

    def policy(self, params: Any, output: jax.Array, mask: jax.Array) -> Categorical | Normal:
        """Action distribution of one agent from its network's output [..., A or D or, with log_std "state", 2 D]."""
        if mask.shape[-1]:
            return Categorical.masked(output, mask)
        if self.log_std == "free":
            return Normal(output, jnp.broadcast_to(params["log_std"], output.shape))
        mean, log_std = jnp.split(output, 2, axis=-1)
        return Normal(mean, self.initial_log_std + log_std)

    def init(self, key: jax.Array, source: Environment) -> PPOState:
        """Draw networks and the first state of the world."""
        key_actor, key_critic, key_world, key_run = jax.random.split(key, 4)
        agents, outputs = self.slots(source), action_size(source)
        by_state = not is_discrete(source) and self.log_std == "state"
        network = self.actor(source.observation_shape, source.num_agents, 2 * outputs if by_state else outputs)
        actor = self.init_slots(network, key_actor, source)
        if not is_discrete(source) and not by_state:
            actor["log_std"] = jnp.full((slots.num_slots(agents), outputs), self.initial_log_std)
        networks = {"actor": actor, "critic": self.init_slots(self.critic(source), key_critic, source)}
        return PPOState(
            params={**networks, "slots": jnp.asarray(agents, jnp.int32)},
            key=key_run,
            updates=jnp.int32(0),
            env_steps=jnp.int32(0),
            opt_state=slots.adam_init(networks),
            world=rollout.start(
                self.vector(source, self.reads_state), self.initial_memory(source.num_agents), key_world
            ),
            critic_memory=jnp.zeros((self.num_envs, source.num_agents, self.recurrent_size)),
            value_stats=jnp.zeros(3),
        )

    # --- acting ----------------------------------------------------------------------------------

    def distribution(
        self, params: Any, memory: jax.Array, view: jax.Array, mask: jax.Array, is_first: jax.Array
    ) -> tuple[jax.Array, Categorical | Normal]:
        """Next memories [N, H] and action distributions of N agents from views [N, ...]; `is_first`: []."""
        actor, count = params["actor"], view.shape[0]
        network = self.actor(view.shape[1:], count, 0)
        memory, output = slots.step(network, params["slots"], actor, memory, view, self.ids(count), is_first)
        return memory, slots.over_agents(self.policy, params["slots"])(actor, output, mask)

    def act(
        self, params: Any, memory: Any, observation: Observation, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """Each agent's action from its own view and memory: [N] int32 or [N, D] float32."""
        view, mask = observation.agents_view, observation.action_mask
        memory, policy = self.distribution(params, memory, view, mask, jnp.bool_(False))
        if greedy:
            return policy.mode(), memory
        size = jax.tree.leaves(policy)[0].shape[-1]
        return policy.sample(policy.draw(key, view.shape[:1], size)), memory

    def collect(
        self, state: PPOState, source: Environment, key: jax.Array
    ) -> tuple[World, Steps, dict[str, jax.Array]]:
        """T steps of B environments; `extra` of the steps is the actions' log probability [T, B, N]."""

        def act(observation: Observation, is_first: jax.Array, memory: jax.Array, noise: jax.Array) -> Any:
            view, mask = observation.agents_view, observation.action_mask
            one = lambda m, v, k, f: self.distribution(state.params, m, v, k, f)  # noqa: E731
            memory, policy = jax.vmap(one)(memory, view, mask, is_first)
            action = policy.sample(noise)
            return action, memory, policy.log_prob(action)

        kind = Categorical if is_discrete(source) else Normal
        shape = (self.num_steps, self.num_envs, source.num_agents)
        noise = kind.draw(key, shape, action_size(source))
        return rollout.collect(self.vector(source, self.reads_state), state.world, act, noise)

    # --- learning --------------------------------------------------------------------------------

    def values(
        self, params: Any, env: Environment, memory: jax.Array, steps: Steps
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Values, in the units that the critic learns.

        Args:
          params: the critic's [G, ...].
          memory: [B, N, H] the critic's before the first step.
        Returns:
          memory: [B, N, H] after the last step; value [T, B, N] of each view; next_value [T, B, N] of each successor.
        """
        network, agents = self.critic(env), self.slots(env)

        def of_part(memory: jax.Array, steps: Steps) -> tuple[jax.Array, jax.Array, jax.Array]:
            read = self.critic_inputs(steps.view, steps.state)
            memories, value = slots.unroll_rows(network, agents, params, memory[0], *read, steps.is_first)
            # A successor is one step further from what was remembered then, in the same episode: each is a row of its own.
            count = steps.is_first.size
            read, memory = jax.tree.map(sharding.merged, ((steps.next_view, steps.next_state), memories))
            read = self.critic_inputs(*jax.tree.map(lambda leaf: leaf[None], read))
            _, following = slots.unroll_rows(network, agents, params, memory, *read, jnp.zeros((1, count), bool))
            following = sharding.unmerged(following[0, ..., 0], value.shape[0])
            return memories[-1:], value[..., 0], following

        # Part by part: at once, the hidden layers of all samples would be the largest arrays of an update.
        rows = (self._row_memory(memory)[None], jax.tree.map(self._rows, steps))
        after, *values = sharding.by_parts(of_part, rows, self.minibatches)
        value, next_value = values if self.recurrent_size else (sharding.unmerged(x[0], self.num_steps) for x in values)
        return after.reshape(memory.shape), value, next_value

    def advantages_of(
        self, state: PPOState, source: Environment, steps: Steps
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Next memory of the critic [B, N, H]; values, advantages and targets [T, B, N] in units of reward."""
        memory, value, next_value = self.values(state.params["critic"], source, state.critic_memory, steps)
        if self.normalize_values:
            value, next_value = (value_units.denormalized(x, state.value_stats) for x in (value, next_value))
        last = jnp.broadcast_to(steps.is_last[..., None], value.shape)
        along_time = jax.vmap(jax.vmap(gae, (1, 1, 1, 1, 1, None, None), 1), (1, 1, 1, 1, 1, None, None), 1)
        advantage = along_time(steps.reward, value, next_value, steps.discount, last, self.discount, self.gae_lambda)
        return memory, value, advantage, advantage + value

    def predictions(self, networks: Any, env: Environment, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Log probability of the actions, entropy, and value in the critic's units, [T', R, N] each."""
        agents, actor, memory = self.slots(env), networks["actor"], batch.memory[0]
        network = self.actor(env.observation_shape, env.num_agents, action_size(env))
        read = (batch.view, self.ids(env.num_agents))
        _, output = slots.unroll_rows(network, agents, actor, memory[:, :, 0], *read, batch.is_first)
        policy = slots.over_agents(self.policy, agents, 2)(actor, output, batch.mask)
        read = self.critic_inputs(batch.view, batch.state)
        _, value = slots.unroll_rows(
            self.critic(env), agents, networks["critic"], memory[:, :, 1], *read, batch.is_first
        )
        return policy.log_prob(batch.action), policy.entropy(), value[..., 0]

    def loss(self, networks: Any, env: Environment, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Sum over slots of the mean loss of each slot's samples, and scalars to log (means over all samples).

        L = E[-min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A)] + c_V V - c_H H + beta KL (Schulman et al. 2017, eqs. 8, 9), where
        V is half the squared error of the value, the larger of the clipped and the unclipped one, and KL = E[rho - 1 - log rho].
        """
        shares, metrics = self.shares(networks, env, batch)
        return jnp.sum(shares), metrics

    def shares(self, networks: Any, env: Environment, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """[N] what each agent's samples add to the loss, and the scalars of `loss`."""
        log_prob, entropy, value = self.predictions(networks, env, batch)
        advantage = self._normalized(batch.advantage)
        ratio = jnp.exp(log_prob - batch.log_prob)
        clipped = jnp.clip(ratio, 1.0 - self.clip, 1.0 + self.clip)
        policy_loss = -jnp.minimum(ratio * advantage, clipped * advantage)
        value_loss = jnp.square(value - batch.target)
        if self.value_clip is not None:
            near = batch.value + jnp.clip(value - batch.value, -self.value_clip, self.value_clip)
            value_loss = jnp.maximum(value_loss, jnp.square(near - batch.target))
        parts = {
            "policy_loss": policy_loss,
            "value_loss": 0.5 * value_loss,
            "entropy": entropy,
            "kl": ratio - 1.0 - (log_prob - batch.log_prob),
            "clipped": (jnp.abs(ratio - 1.0) > self.clip) * 1.0,
        }
        by_agent = {name: jnp.mean(part, (0, 1)) for name, part in parts.items()}
        total = by_agent["policy_loss"] + self.value_coefficient * by_agent["value_loss"]
        total = total - self.entropy_coefficient * by_agent["entropy"]
        if self.kl_coefficient is not None:
            total = total + self.kl_coefficient * by_agent["kl"]
        return slots.weights(self.slots(env)) * total, jax.tree.map(jnp.mean, by_agent)

    def norms_by_agent(self, networks: Any, env: Environment, batch: Batch) -> dict[str, jax.Array]:
        """L2 norm of the gradient of each agent's share of the loss, over the parameters of all slots."""
        gradients = jax.jacrev(lambda networks: self.shares(networks, env, batch)[0])(networks)
        norms = jax.vmap(global_norm)(gradients)
        return {f"gradient_norm_agent_{agent}": norms[agent] for agent in range(env.num_agents)}

    def _normalized(self, advantage: jax.Array) -> jax.Array:
        if self.advantages == "none":
            return advantage
        axes = (0, 1) if self.advantages == "agent" else (0, 1, 2)
        centred = advantage - jnp.mean(advantage, axes, keepdims=True)
        return centred / (jnp.std(advantage, axes, keepdims=True) + 1e-8)

    def rows(self, state: PPOState, steps: Steps, value: jax.Array, advantage: jax.Array, target: jax.Array) -> Batch:
        """Samples from steps [T, B, N, ...]: a row for each step, or with a GRU for each environment."""
        memory = jnp.stack([state.world.memory, state.critic_memory], axis=2)
        by_step = {
            "view": steps.view,
            "mask": steps.mask,
            "state": steps.state,
            "is_first": steps.is_first,
            "action": steps.action,
            "log_prob": steps.extra,
            "advantage": advantage,
            "value": value,
            "target": target,
        }
        return Batch(**jax.tree.map(self._rows, by_step), memory=self._row_memory(memory)[None])

    def _rows(self, leaf: jax.Array) -> jax.Array:
        """[T', R, ...] from [T, B, ...]."""
        return leaf if self.recurrent_size else sharding.merged(leaf)[None]

    def taken(self, batch: Batch, index: jax.Array | slice) -> Batch:
        """The rows `index`."""
        if not self.recurrent_size:
            index = sharding.merged_place(index, self.num_steps, self.num_envs)
        return sharding.drawn(jax.tree.map(lambda leaf: leaf[:, index], batch), axis=1)

    def _row_memory(self, memory: jax.Array) -> jax.Array:
        """[R, ...] from [B, ...]: without a GRU the memories have no entries."""
        return memory if self.recurrent_size else jnp.zeros((self.update_steps, *memory.shape[1:]))

    def update(self, state: PPOState, source: Environment) -> tuple[PPOState, dict[str, jax.Array]]:
        """One iteration; see the module's docstring."""
        key_play, key_epochs = jax.random.split(jax.random.fold_in(state.key, state.updates))
        world, steps, played = self.collect(state, source, key_play)
        critic_memory, value, advantage, target = self.advantages_of(state, source, steps)
        value_stats = state.value_stats
        if self.normalize_values:
            value_stats = value_units.updated(value_stats, target)
            value, target = (value_units.normalized(x, value_stats) for x in (value, target))
        batch = self.rows(state, steps, value, advantage, target)
        count = batch.view.shape[1]
        learning_rate = self.learning_rate
        if self.anneal_steps is not None:
            learning_rate *= jnp.maximum(0.0, 1.0 - state.env_steps / self.anneal_steps)

        def step(carry: Any, index: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            networks, opt_state = carry
            part = self.taken(batch, index)
            gradient, metrics = jax.grad(self.loss, has_aux=True)(networks, source, part)
            networks, opt_state, norm = slots.adam_step(
                networks, gradient, opt_state, learning_rate, self.max_grad_norm, self.adam_epsilon
            )
            return (networks, opt_state), {**metrics, "gradient_norm": jnp.mean(norm)}

        networks = {name: state.params[name] for name in ("actor", "critic")}
        if self.gradient_norms:
            first = self.taken(batch, slice(count // self.minibatches))
            played |= self.norms_by_agent(networks, source, first)
        (networks, opt_state), learned = in_minibatches(
            step, (networks, state.opt_state), key_epochs, count, self.epochs, self.minibatches
        )
        state = dataclasses.replace(
            state,
            params={**state.params, **networks},
            updates=state.updates + 1,
            env_steps=state.env_steps + self.update_steps,
            opt_state=opt_state,
            world=world,
            critic_memory=critic_memory,
            value_stats=value_stats,
        )
        return state, {**played, **jax.tree.map(jnp.mean, learned)}
