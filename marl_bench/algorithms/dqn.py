"""Deep Q-learning with shared, grouped or independent networks: `dqn`.

Sources: Weng and Lee 2026 (arXiv 2601.05509), whose protocol the defaults are; Mnih et al. 2015 (target network,
replay); van Hasselt et al. 2016 (double Q-learning).

One iteration (`update`) is `update_period` environment steps with one gradient step after the first of them:

  1. every agent samples a_t ~ softmax(Q(o_t) / temperature(t)) (or epsilon-greedy);
  2. the joint step is stored;
  3. after the iteration's first step: a mini-batch, n-step targets, Huber loss, clipping, AdamW;
  4. the target network is overwritten whenever env_steps passes a multiple of `target_period`.

Agents share one network ("shared"), one per random group ("grouped"; each group has its own data and gradient
steps), or have one each ("independent"). Worlds that enumerate their observations are played and replayed by code
(`dqn_codes`), all others by whole transitions (`dqn_transitions`); the mathematics is the same.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms import dqn_codes, dqn_transitions
from marl_bench.algorithms.equations import (
    AdamState,
    adamw,
    adamw_init,
    boltzmann,
    clip_by_global_norm,
    epsilon_greedy,
    huber,
    linear_schedule,
)
from marl_bench.algorithms.networks import init_mlp, mlp
from marl_bench.environment import Environment, Observation, check_choice, check_integer, check_range, field
from marl_bench.learner import Learner, TrainState
from marl_bench.random import windowed_words, words

SHARING = ("shared", "grouped", "independent")
EXPLORATION = ("boltzmann", "epsilon")
# Random streams: one a purpose, two for the two coordinates of a replayed step.
_ACTING, _REPLAY, _EVALUATION = 0, (1, 2), 3


@struct.dataclass
class DQNState(TrainState):
    """Training state; `params` is {"network": [G, ...], "group": [N] int32 (only with several groups)}.

    Attributes:
      target: [G, ...] target networks.
      opt_state: [G, ...] AdamW state.
      members: [G, N / G] int32 agents of each group, None for one group.
      world: environment state and replay.
    """

    target: Any
    opt_state: AdamState
    members: Any
    world: Any


@struct.dataclass
class DQN(Learner):
    """Deep Q-learning with shared, grouped or independent networks; the paper's symbols stand in brackets.

    Raises:
      ValueError: for values out of range or fields without effect. TypeError: for values of the wrong type.
    """

    sharing: str = field("shared", static=True, doc=f"who shares a network: {', '.join(SHARING)}")
    num_groups: int = field(
        1, static=True, doc="number of equal random groups [G], must divide the agents; for sharing='grouped'"
    )
    hidden_sizes: tuple[int, ...] = field((96,), static=True, doc="widths of the hidden ReLU layers", unit="units")
    double: bool = field(True, static=True, doc="double Q-learning: choose by the online, value by the target network")
    n_step: int = field(5, static=True, doc="length of the uncorrected multi-step target", unit="steps")
    batch_size: int = field(256, static=True, doc="transitions a gradient step and group, drawn with replacement")
    buffer_steps: int = field(
        100, static=True, doc="replay capacity: the most recent environment steps of all agents", unit="steps"
    )
    update_period: int = field(4, static=True, doc="environment steps a gradient step", unit="steps")
    num_envs: int = field(1, static=True, doc="copies of the environment stepped side by side")
    exploration: str = field("boltzmann", static=True, doc=f"behaviour policy: {', '.join(EXPLORATION)}")
    evaluation_steps: int = field(
        5_000, static=True, doc="last steps of the run: no storing, no learning", unit="steps"
    )
    target_period: int = field(2_000, doc="environment steps between hard target copies", unit="steps")
    learning_rate: float = field(1e-4, doc="AdamW step size, constant")
    weight_decay: float = field(1e-4, doc="decoupled decay, also on biases")
    max_grad_norm: float = field(0.5, doc="global L2 norm a gradient is clipped to, per network")
    huber_delta: float = field(1.0, doc="error at which the Huber loss turns linear", unit="payoff")
    discount: float = field(0.99, doc="discount factor [gamma], in [0, 1)")
    initial_temperature: float = field(0.66, doc="Boltzmann temperature of the first step [tau_0]", unit="payoff")
    final_temperature: float = field(0.1, doc="temperature after annealing [tau_f]", unit="payoff")
    evaluation_temperature: float = field(0.1, doc="temperature of the evaluation policy", unit="payoff")
    anneal_steps: int = field(95_000, doc="length of the linear schedule [A]", unit="steps")
    initial_epsilon: float | None = field(None, doc="epsilon of the first step; only with exploration='epsilon'")
    final_epsilon: float | None = field(None, doc="epsilon after annealing; only with exploration='epsilon'")
    evaluation_epsilon: float | None = field(
        None, doc="epsilon of the evaluation policy; only with exploration='epsilon'"
    )

    def __post_init__(self) -> None:
        check_choice(self, "sharing", SHARING)
        check_choice(self, "exploration", EXPLORATION)
        for name in (
            "num_groups",
            "n_step",
            "batch_size",
            "buffer_steps",
            "update_period",
            "num_envs",
            "evaluation_steps",
        ):
            check_integer(self, name, 1)
        if not isinstance(self.hidden_sizes, tuple) or not all(isinstance(h, int) and h > 0 for h in self.hidden_sizes):
            raise TypeError(f"hidden_sizes={self.hidden_sizes!r}: must be a tuple of positive integers (field of DQN)")
        if not isinstance(self.double, bool):
            raise TypeError(f"double={self.double!r}: must be True or False (field of DQN)")
        if (self.sharing == "grouped") != (self.num_groups > 1):
            raise ValueError(
                f"num_groups={self.num_groups} with sharing={self.sharing!r}: 'grouped' needs num_groups >= 2, "
                "the others num_groups=1 (fields of DQN)"
            )
        if self.buffer_steps < self.n_step:
            raise ValueError(f"buffer_steps={self.buffer_steps}: must be >= n_step={self.n_step} (fields of DQN)")
        for name in ("target_period", "anneal_steps"):
            check_range(self, name, 1)
        for name in ("learning_rate", "max_grad_norm", "huber_delta", "initial_temperature", "final_temperature"):
            check_range(self, name, 0.0, open_low=True)
        check_range(self, "evaluation_temperature", 0.0, open_low=True)
        check_range(self, "weight_decay", 0.0)
        check_range(self, "discount", 0.0, 1.0, open_high=True)
        self._check_epsilon()

    def _check_epsilon(self) -> None:
        for name in ("initial_epsilon", "final_epsilon", "evaluation_epsilon"):
            check_range(self, name, 0.0, 1.0)
            if (getattr(self, name) is None) == (self.exploration == "epsilon"):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} with exploration={self.exploration!r}: give it with 'epsilon' only (field of DQN)"
                )

    # --- protocol --------------------------------------------------------------------------------

    @property
    def default_steps(self) -> int:
        """100,000: 95,000 of training and 5,000 of evaluation."""
        return 100_000

    @property
    def update_steps(self) -> int:
        """Environment steps of one `update` call."""
        return self.update_period * self.num_envs

    def num_updates(self, steps: int) -> int:
        """Number of iterations in a run of `steps` environment steps, evaluation included."""
        if self.evaluation_steps % self.num_envs:
            raise ValueError(
                f"evaluation_steps={self.evaluation_steps}: must be a multiple of num_envs={self.num_envs}"
            )
        training = steps - self.evaluation_steps
        if training < self.update_steps:
            raise ValueError(
                f"steps={steps}: must be at least evaluation_steps + {self.update_steps} = {self.evaluation_steps + self.update_steps}"
            )
        if training % self.update_steps:
            raise ValueError(
                f"steps={steps}: steps - evaluation_steps = {training} must be a multiple of update_period * num_envs = "
                f"{self.update_steps}; use steps={steps - training % self.update_steps}"
            )
        return training // self.update_steps

    def validate(self, environment: Environment) -> None:
        """Check that the world has discrete actions, known learner inputs, and agents that the groups divide."""
        name = type(environment.unwrapped).__name__
        if not hasattr(environment.action_spec, "num_values"):
            raise ValueError(f"dqn needs discrete actions; {name} has continuous ones")
        if environment.num_agents % self.num_groups:
            raise ValueError(
                f"num_groups={self.num_groups} does not divide the {environment.num_agents} agents of {name}"
            )
        unknown = set(environment.learner_inputs) - {"temperature", "progress"}
        if unknown:
            raise ValueError(f"{name} asks its learner for {sorted(unknown)}; dqn offers temperature and progress")
        if "temperature" in environment.learner_inputs and self.exploration != "boltzmann":
            raise ValueError(f"{name} observes the temperature, which exploration={self.exploration!r} does not have")

    def groups_in(self, env: Environment) -> int:
        """Number of networks G."""
        return {"shared": 1, "grouped": self.num_groups, "independent": env.num_agents}[self.sharing]

    def experience(self, env: Environment) -> ModuleType:
        """The module that plays and replays `env`: by code where its observations are enumerated, else by transition."""
        if not (env.endless and self.num_envs == 1 and env.num_codes is not None):
            return dqn_transitions
        code = jax.ShapeDtypeStruct((1,), jnp.uint32)
        known = jax.eval_shape(env.code_outcome, code, jax.ShapeDtypeStruct((1,), jnp.int32))
        return dqn_codes if known is not None else dqn_transitions

    # --- schedules and policies ------------------------------------------------------------------

    def temperature(self, env_steps: jax.Array) -> jax.Array:
        """tau(c) = tau_0 + (tau_f - tau_0) c / A for c <= A, tau_f afterwards."""
        return linear_schedule(self.initial_temperature, self.final_temperature, env_steps, self.anneal_steps)

    def behaviour(self, q_values: jax.Array, env_steps: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[..., A] action probabilities during training, from action values [..., A]."""
        if self.initial_epsilon is not None and self.final_epsilon is not None:
            epsilon = linear_schedule(self.initial_epsilon, self.final_epsilon, env_steps, self.anneal_steps)
            return epsilon_greedy(q_values, epsilon, mask)
        return boltzmann(q_values, self.temperature(env_steps), mask)

    def evaluation_policy(self, q_values: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[..., A] action probabilities during evaluation."""
        if self.evaluation_epsilon is not None:
            return epsilon_greedy(q_values, self.evaluation_epsilon, mask)
        return boltzmann(q_values, self.evaluation_temperature, mask)

    def training_inputs(self, env: Environment, env_steps: jax.Array) -> jax.Array:
        """[..., F] learner inputs of the observations made when the counter stood at `env_steps` [...].

        progress = c / A; temperature = (tau(c) - tau_f) / (tau_0 - tau_f), both clipped to [0, 1]. The first
        observation carries the values of c = 1, as in the original (its quirk Q16).
        """
        count = jnp.maximum(env_steps, 1)
        span = jnp.maximum(1e-6, self.initial_temperature - self.final_temperature)
        known = {
            "progress": lambda: jnp.minimum(1.0, count / self.anneal_steps),
            "temperature": lambda: jnp.clip((self.temperature(count) - self.final_temperature) / span, 0.0, 1.0),
        }
        found = [known[name]() for name in env.learner_inputs]
        return jnp.stack(found, axis=-1).astype(jnp.float32) if found else jnp.zeros((*jnp.shape(env_steps), 0))

    def final_inputs(self, env: Environment) -> jax.Array:
        """[F] learner inputs after training: progress 1, temperature 0."""
        return jnp.asarray([float(name == "progress") for name in env.learner_inputs], jnp.float32)

    # --- learning --------------------------------------------------------------------------------

    def init(self, key: jax.Array, source: Environment) -> DQNState:
        """Draw networks, groups and the first state of the world."""
        key_network, key_groups, key_world, key_run = jax.random.split(key, 4)
        num_groups = self.groups_in(source)
        sizes = (source.observation_shape[0], *self.hidden_sizes, source.num_actions)
        network = jax.vmap(lambda k: init_mlp(k, sizes))(jax.random.split(key_network, num_groups))
        params: dict[str, Any] = {"network": network}
        members = None
        if num_groups > 1:
            members = jax.random.permutation(key_groups, source.num_agents).reshape(num_groups, -1).astype(jnp.int32)
            order = jnp.arange(source.num_agents, dtype=jnp.int32) // members.shape[1]
            params["group"] = jnp.zeros(source.num_agents, jnp.int32).at[members.reshape(-1)].set(order)
        return DQNState(
            params=params,
            key=key_run,
            updates=jnp.int32(0),
            env_steps=jnp.int32(0),
            target=jax.tree.map(jnp.copy, network),
            opt_state=jax.vmap(adamw_init)(network),
            members=members,
            world=self.experience(source).init(self, source, key_world),
        )

    def bootstrap(self, online: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[...] value of the next observation from action values [..., A] of both networks."""
        legal = jnp.ones(online.shape, bool) if mask is None else mask
        chooser = jnp.where(legal, online if self.double else target, -jnp.inf)
        best = jnp.argmax(chooser, axis=-1)
        return jnp.take_along_axis(target, best[..., None], axis=-1)[..., 0]

    def loss(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Mean Huber loss of predictions against targets, both [n]."""
        return jnp.mean(huber(prediction - target, self.huber_delta))

    def learn(
        self, state: DQNState, source: Environment, world: Any, newest: jax.Array
    ) -> tuple[Any, AdamState, jax.Array]:
        """One gradient step of every group: networks, optimiser state, and the loss (mean over groups)."""
        experience = self.experience(source)
        network = state.params["network"]
        num_groups = self.groups_in(source)
        # Two draws, joined: the join keeps XLA from recomputing the cipher in every consumer.
        drawn = [words(state.key, state.updates, stream, num_groups * self.batch_size) for stream in _REPLAY]
        word = jnp.concatenate(drawn).reshape(2, num_groups, self.batch_size)
        batch = experience.sample(self, source, world, state.members, newest, word)
        target = experience.targets(self, source, network, state.target, batch)

        def objective(net: Any, one: Any, goal: jax.Array) -> jax.Array:
            return self.loss(experience.predictions(source, net, one), goal)

        loss, gradient = jax.vmap(jax.value_and_grad(objective))(network, batch, target)
        gradient = jax.vmap(lambda g: clip_by_global_norm(g, self.max_grad_norm))(gradient)
        step = lambda p, g, s: adamw(p, g, s, learning_rate=self.learning_rate, weight_decay=self.weight_decay)  # noqa: E731
        stepped: tuple[Any, Any] = jax.vmap(step)(network, gradient, state.opt_state)
        per_step = source.num_agents * self.num_envs // num_groups
        if per_step < self.batch_size:
            ready = (newest + 1) * per_step >= self.batch_size
            stepped = jax.tree.map(lambda new, old: jnp.where(ready, new, old), stepped, (network, state.opt_state))
        return stepped[0], stepped[1], jnp.mean(loss)

    def update(self, state: DQNState, source: Environment) -> tuple[DQNState, dict[str, jax.Array]]:
        """`update_period` environment steps, one gradient step after the first; see the module's docstring."""
        experience = self.experience(source)
        time = state.updates * self.update_period
        word = windowed_words(state.key, state.updates, _ACTING, self.update_period, source.num_agents * self.num_envs)

        def play(
            world: Any, policy: Any, offset: jax.Array | int, step_word: jax.Array
        ) -> tuple[Any, dict[str, jax.Array]]:
            return experience.collect(self, source, world, policy, state.params.get("group"), time + offset, step_word)

        policy = experience.policy(source, state.params["network"])
        world, first = play(state.world, policy, 0, word[0])
        network, opt_state, loss = self.learn(state, source, world, time)
        policy = experience.policy(source, network)
        world, rest = jax.lax.scan(
            lambda carry, xs: play(carry, policy, *xs), world, (jnp.arange(1, self.update_period), word[1:])
        )
        metrics = jax.tree.map(lambda a, b: (a + jnp.sum(b)) / self.update_period, first, rest)
        env_steps = state.env_steps + self.update_steps
        copy = env_steps // self.target_period > state.env_steps // self.target_period
        target = jax.tree.map(lambda new, old: jnp.where(copy, new, old), network, state.target)
        state = dataclasses.replace(
            state,
            params={**state.params, "network": network},
            target=target,
            opt_state=opt_state,
            world=world,
            updates=state.updates + 1,
            env_steps=env_steps,
        )
        return state, {**metrics, "loss": loss}

    # --- evaluation and execution ----------------------------------------------------------------

    def evaluate(self, state: DQNState, source: Environment) -> dict[str, jax.Array]:
        """`evaluation_steps` further steps under the evaluation policy, from the last training state.

        Returns:
          Mean of every environment metric; reward as sum and as mean per agent; `q_gap` (max - min action value),
          `q_signed_gap` (Q(0) - Q(1), two actions) and `q_level` (mean action value) at the observations acted on;
          worlds played by code also return `visits` [K] counts.
        """
        count = self.evaluation_steps // self.num_envs
        draw = lambda i: windowed_words(state.key, i, _EVALUATION, 1, source.num_agents * self.num_envs)[0]  # noqa: E731
        return self.experience(source).evaluate(self, source, state, draw, count)

    def act(
        self, params: Any, memory: Any, observation: Observation, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """Each agent's action from its own view: [N] int32; memoryless."""
        view = observation.agents_view
        network = params["network"]
        width = network[0]["w"].shape[-2]
        if view.shape[-1] != width:
            raise ValueError(f"agents_view has {view.shape[-1]} entries an agent, this policy's network takes {width}")
        if "group" not in params:
            q_values = mlp(jax.tree.map(lambda leaf: leaf[0], network), view)
        elif params["group"].shape[0] != view.shape[0]:
            raise ValueError(
                f"this policy has networks for {params['group'].shape[0]} agents, the observation has {view.shape[0]} (num_agents)"
            )
        else:
            q_values = jax.vmap(mlp)(jax.tree.map(lambda leaf: leaf[params["group"]], network), view)
        mask = observation.action_mask
        if greedy:
            return jnp.argmax(jnp.where(mask, q_values, -jnp.inf), axis=-1).astype(jnp.int32), memory
        probabilities = self.evaluation_policy(q_values, mask)
        return jax.random.categorical(key, jnp.log(probabilities)).astype(jnp.int32), memory
