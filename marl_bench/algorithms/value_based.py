"""What the learners of action values share (`iql`, `vdn`, `qmix`, `pqn`): acting, sequences, team rewards, targets.

Each agent has action values Q_a(o, .) of its own view. Without mixing (`team` None) they are learned from its own reward. With
mixing, the values of the actions taken are joined to one value of the team, by a sum (VDN; Sunehag et al. 2018) unless `joint`
is overridden, and this is learned from the reward of the team. J is N or 1 accordingly.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms import rollout, slots
from marl_bench.algorithms.equations import lambda_targets, linear_schedule
from marl_bench.algorithms.networked import is_discrete
from marl_bench.algorithms.networks import Network
from marl_bench.algorithms.online import OnlineLearner
from marl_bench.algorithms.rollout import Steps, World
from marl_bench.algorithms.sequence_replay import Sequences
from marl_bench.environment import Environment, Observation, check_choice, check_range, field

TEAM_REWARDS = ("common", "sum", "mean")
TEAM_REWARD_DOC = "the team's reward: 'common' (all agents receive the same), or the 'sum' or 'mean' of their rewards"


@struct.dataclass
class ValueLearner(OnlineLearner):
    """Base of the learners of action values.

    Raises:
      ValueError: for values out of range. TypeError: for values of the wrong type.
    """

    activation: str = field("relu", static=True, doc="of the dense layers: relu, tanh")
    evaluation_greedy: bool = field(
        True, static=True, doc="evaluate the best action; False: epsilon-greedy with final_epsilon"
    )
    layer_norm: bool = field(False, static=True, doc="normalise every hidden layer before its activation")
    initial_epsilon: float = field(1.0, doc="chance of a random legal action in the first step [epsilon], in [0, 1]")
    final_epsilon: float = field(0.05, doc="the same after anneal_steps")
    anneal_steps: int = field(100_000, doc="length of the linear schedule of epsilon", unit="steps")
    td_lambda: float = field(0.0, doc="weight of longer returns in the targets [lambda], in [0, 1]; 0: one step")
    learning_rate_steps: int | None = field(
        None, doc="the step size falls linearly to 0 over so many steps; None keeps it", unit="steps"
    )
    adam_epsilon: float = field(1e-5, doc="Adam's epsilon")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.layer_norm, bool):
            raise TypeError(f"layer_norm={self.layer_norm!r}: must be True or False (field of {self._kind})")
        for name in ("initial_epsilon", "final_epsilon", "td_lambda"):
            check_range(self, name, 0.0, 1.0)
        for name in ("anneal_steps", "learning_rate_steps"):
            check_range(self, name, 1)
        check_range(self, "adam_epsilon", 0.0, open_low=True)
        if self.team is not None:
            check_choice(self, "team_reward", TEAM_REWARDS)

    # --- protocol --------------------------------------------------------------------------------

    @property
    def team(self) -> str | None:
        """How the agents' rewards become the team's (one of `TEAM_REWARDS`); None: each agent learns from its own."""
        return None

    @property
    def reads_state(self) -> bool:
        """Whether the global state is needed to join values."""
        return False

    def validate(self, environment: Environment) -> None:
        """Also check that actions are numbered and, where a common reward is assumed, that the world does not deny it."""
        super().validate(environment)
        name = type(environment.unwrapped).__name__
        if not is_discrete(environment) or len(environment.action_spec.shape) != 1:
            raise ValueError(
                f"{self._kind} chooses one of A actions for each agent; {name} takes actions of shape "
                f"{environment.action_spec.shape} ({type(environment.action_spec).__name__}); use learner=ippo or maddpg"
                " for continuous ones"
            )
        if self.team == "common" and environment.common_reward is False:
            raise ValueError(
                f"{self._kind} learns from a reward common to the team, and {name} may pay its agents differently; use "
                f"team_reward='sum' or 'mean' to make a team of them, or learner=iql (team_reward: field of {self._kind})"
            )

    def network(
        self, shape: tuple[int, ...], num_agents: int, outputs: int, output_scale: float = 0.01, extra: int = 0
    ) -> Network:
        """As in the base, with this learner's `layer_norm`; values start near 0, whatever the size of the view's entries."""
        network = super().network(shape, num_agents, outputs, output_scale, extra)
        return dataclasses.replace(network, layer_norm=self.layer_norm)

    # --- acting ----------------------------------------------------------------------------------

    def action_values(
        self, params: Any, memory: jax.Array, view: jax.Array, is_first: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Next memories [N, H] and action values [N, A] from views [N, ...]; `is_first`: []."""
        network, ids = self.network(view.shape[1:], view.shape[0], 0), self.ids(view.shape[0])
        return slots.step(network, params["slots"], params["q"], memory, view, ids, is_first)

    def act(
        self, params: Any, memory: Any, observation: Observation, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """Each agent's action [N] int32 from its own view and memory: the best, or epsilon-greedy with `final_epsilon`."""
        mask = observation.action_mask
        memory, values = self.action_values(params, memory, observation.agents_view, jnp.bool_(False))
        if greedy:
            return best_action(values, mask), memory
        return explored(values, mask, jax.random.uniform(key, mask.shape[:1]), self.final_epsilon), memory

    def epsilon(self, env_steps: jax.Array) -> jax.Array:
        """Chance of a random action after `env_steps` steps."""
        return linear_schedule(self.initial_epsilon, self.final_epsilon, env_steps, self.anneal_steps)

    def collect(
        self, params: Any, world: World, env_steps: jax.Array, source: Environment, key: jax.Array
    ) -> tuple[World, Sequences, dict[str, jax.Array]]:
        """T steps of B environments: the world after them, `Sequences` [B, ...], and metrics."""
        shape = (self.num_steps, self.num_envs, source.num_agents)
        epsilon = self.epsilon(env_steps + self.num_envs * jnp.arange(self.num_steps))
        noise = (jax.random.uniform(key, shape), jnp.broadcast_to(epsilon[:, None, None], (*shape[:2], 1)))

        def act(observation: Observation, is_first: jax.Array, memory: jax.Array, noise: Any) -> Any:
            values = lambda m, v, f: self.action_values(params, m, v, f)  # noqa: E731
            memory, q = jax.vmap(values)(memory, observation.agents_view, is_first)
            return explored(q, observation.action_mask, *noise), memory, ()

        following, steps, metrics = rollout.collect(self.vector(source, self.reads_state), world, act, noise)
        metrics = {**metrics, "epsilon": jnp.mean(epsilon)}
        if self.team == "common":
            metrics["reward_is_common"] = reward_is_common(steps.reward)
        return following, self.sequences(source, world.memory, steps), metrics

    def sequences(self, env: Environment, memory: jax.Array, steps: Steps) -> Sequences:
        """[B, T, ...] from steps [T, B, ...] that began with `memory` [B, N, H]."""
        kept = 1 if ends_with_sequences(env, self.num_steps) else self.num_steps
        reward, discount = self.paid(steps.reward, steps.discount)
        by_time = (steps.view, steps.state, steps.is_first, steps.action, reward, discount, steps.is_last)
        successors = (steps.next_view[-kept:], None if steps.next_state is None else steps.next_state[-kept:])
        rows = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), (*by_time, steps.next_mask, *successors))
        return Sequences(*rows, memory=memory)

    # --- learning --------------------------------------------------------------------------------

    def paid(self, reward: jax.Array, discount: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What is learned from: rewards and discounts [..., J] from those of the agents [..., N]."""
        return (reward, discount) if self.team is None else team_paid(self.team, reward, discount)

    def joint(self, networks: Any, values: jax.Array, state: jax.Array | None) -> jax.Array:
        """Values [..., J] from the agents' values [..., N] and global states [..., S]: the same, or their sum."""
        del networks, state
        return values if self.team is None else jnp.sum(values, axis=-1, keepdims=True)

    def unrolled(
        self, networks: Any, env: Environment, batch: Sequences, beyond: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Memories [T, R, N, H] after each step and action values [T, R, N, A] of the views of sequences [R, T, ...].

        Args:
          beyond: [R, 1, N, ...] views of one step more, in the same episode; T is then one more.
        """
        network = self.network(env.observation_shape, env.num_agents, env.num_actions)
        view, is_first = batch.view, batch.is_first
        if beyond is not None:
            view = jnp.concatenate([view, beyond], axis=1)
            is_first = jnp.pad(is_first, ((0, 0), (0, 1)))
        by_time = jnp.swapaxes(view, 0, 1), self.ids(env.num_agents), jnp.swapaxes(is_first, 0, 1)
        return slots.unroll_rows(network, self.slots(env), networks["q"], batch.memory, *by_time)

    def valued(self, networks: Any, env: Environment, batch: Sequences) -> tuple[jax.Array, jax.Array]:
        """Action values [T, R, N, A] of the views and of the true successors of sequences [R, T, ...]."""
        assert batch.next_view is not None
        if batch.next_view.shape[1] == 1:
            _, q = self.unrolled(networks, env, batch, batch.next_view)
            return q[:-1], q[1:]
        network, ids = self.network(env.observation_shape, env.num_agents, env.num_actions), self.ids(env.num_agents)
        memories, q = self.unrolled(networks, env, batch)

        def one(memory: jax.Array, view: jax.Array) -> jax.Array:
            return slots.step(network, self.slots(env), networks["q"], memory, view, ids, jnp.bool_(False))[1]

        return q, jax.vmap(jax.vmap(one))(memories, jnp.swapaxes(batch.next_view, 0, 1))

    @staticmethod
    def length(sequence: Sequences) -> int:
        """T."""
        return sequence.is_last.shape[0]

    def chosen(self, networks: Any, sequence: Sequences, q: jax.Array) -> jax.Array:
        """[T, J] values of the actions of one sequence from action values [T, N, A]."""
        return self.joint(networks, picked(q, sequence.action), sequence.state)

    def targets(self, networks: Any, sequence: Sequences, choosing: jax.Array, valuing: jax.Array) -> jax.Array:
        """[T, J] targets of one sequence.

            y_t = r_t + gamma d_t ((1 - lambda) Q(o', a*) + lambda y_{t+1}), a* the best legal action by `choosing`

        cut at the end of an episode and of the sequence (lambda 0 there).

        Args:
          networks: whose mixing joins the values.
          choosing, valuing: [T, N, A] action values of the true successors.
        """
        state = sequence.next_state
        if state is not None and sequence.state is not None and state.shape[0] < self.length(sequence):
            state = jnp.concatenate([sequence.state[1:], state])
        best = picked(valuing, best_action(choosing, sequence.next_mask))
        following = self.joint(networks, best, state)
        along_time = jax.vmap(lambda_targets, (1, 1, 1, None, None, None), 1)
        return along_time(
            sequence.reward, following, sequence.discount, sequence.is_last, self.discount, self.td_lambda
        )

    def squared_error(
        self, env: Environment, value: jax.Array, target: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean squared error of values [..., J], for each slot of agents apart and summed; and scalars to log."""
        error = value - target
        by_entry = jnp.mean(jnp.square(error), axis=tuple(range(error.ndim - 1)))
        weight = slots.weights(self.slots(env)) if self.team is None else 1.0
        metrics = {"loss": jnp.mean(by_entry), "value": jnp.mean(value), "td_error": jnp.mean(jnp.abs(error))}
        return jnp.sum(weight * by_entry), metrics

    def stepped(
        self, networks: Any, gradient: Any, opt_state: Any, env_steps: jax.Array
    ) -> tuple[Any, Any, dict[str, jax.Array]]:
        """Networks and optimisers after one Adam step, and `gradient_norm`, the mean over slots (and the mixer)."""
        learning_rate = self.learning_rate
        if self.learning_rate_steps is not None:
            learning_rate *= jnp.maximum(0.0, 1.0 - env_steps / self.learning_rate_steps)
        done = {
            name: slots.adam_step(
                networks[name], gradient[name], opt_state[name], learning_rate, self.max_grad_norm, self.adam_epsilon
            )
            for name in networks
        }
        norms = jnp.concatenate([norm for _, _, norm in done.values()])
        networks, opt_state = ({name: parts[index] for name, parts in done.items()} for index in (0, 1))
        return networks, opt_state, {"gradient_norm": jnp.mean(norms)}


def ends_with_sequences(env: Environment, num_steps: int) -> bool:
    """Whether no episode ends inside a sequence of `num_steps` steps: each step's successor is then the next view."""
    return env.endless or (env.fixed_horizon is not None and env.fixed_horizon % num_steps == 0)


def reward_is_common(reward: jax.Array) -> jax.Array:
    """[] 1 where all agents are paid the same in rewards [..., N], else NaN, which stops the run.

    A value learned from the first agent's reward alone would be wrong in silence.
    """
    common = jnp.all(jnp.isclose(reward, reward[..., :1], rtol=1e-5, atol=1e-6))
    return jnp.where(common, 1.0, jnp.nan)


def team_paid(team: str, reward: jax.Array, discount: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The team's rewards and discounts [..., 1] from those of its agents [..., N]; it goes on while any of them does.

    Args:
      team: one of `TEAM_REWARDS`.
    """
    discount = jnp.max(discount, axis=-1, keepdims=True)
    if team == "common":
        return reward[..., :1], discount
    join = jnp.sum if team == "sum" else jnp.mean
    return join(reward, axis=-1, keepdims=True), discount


def best_action(q: jax.Array, mask: jax.Array) -> jax.Array:
    """[...] int32, the first best legal action by values [..., A]; `mask` [..., A] bool."""
    return jnp.argmax(jnp.where(mask, q, -jnp.inf), axis=-1).astype(jnp.int32)


def explored(q: jax.Array, mask: jax.Array, uniform: jax.Array, epsilon: jax.Array | float) -> jax.Array:
    """[...] int32 epsilon-greedy actions.

    Args:
      q: [..., A]. mask: [..., A] bool.
      uniform: [...] in [0, 1), one number for both questions: whether to explore, and which legal action.
      epsilon: chance of a uniform legal action.
    """
    rank = jnp.cumsum(mask, axis=-1)
    legal = rank[..., -1]
    wanted = jnp.floor(uniform / jnp.maximum(epsilon, 1e-12) * legal).astype(jnp.int32)
    anything = jnp.argmax(rank > jnp.minimum(wanted, legal - 1)[..., None], axis=-1).astype(jnp.int32)
    return jnp.where(uniform < epsilon, anything, best_action(q, mask))


def picked(q: jax.Array, action: jax.Array) -> jax.Array:
    """[...] entries of `q` [..., A] at `action` [...]; a compare and a sum, whose gradient is no scatter."""
    return jnp.sum(jnp.where(action[..., None] == jnp.arange(q.shape[-1]), q, 0.0), axis=-1)
