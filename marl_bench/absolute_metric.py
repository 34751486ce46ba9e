"""The absolute metric: a learner that is evaluated while it trains, keeps its best policy, and is judged by fresh episodes.

Source: Gorsane et al. 2022 (arXiv 2209.10485), section 4, after Colas et al. 2018: play a few episodes at regular intervals, keep
the parameters of the best evaluation, and report what those earn in new episodes. A noisy evaluation chooses which policy is judged
but does not enter its score.

`Evaluated` wraps a learner and is one, so runs with it are packed, checkpointed and resumed like any other.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import evaluation
from marl_bench.environment import Environment, Observation, check_integer
from marl_bench.learner import Learner, TrainState, world_of

SCORE = "return_sum"
"""What the best policy is best in: the mean over episodes of the sum of all agents' returns."""

_FINAL, _INTERIM = np.uint32(2**32 - 1), np.uint32(2**32 - 2)  # of the random streams, apart from any update's


@struct.dataclass
class EvaluatedState(TrainState):
    """State of `Evaluated`; `params` are the newest ones, `updates` counts evaluations.

    Attributes:
      inner: the wrapped learner's state without its params.
      best_params: those of the best evaluation so far, the latest of equal ones.
      best_score: [] float32. best_env_steps: [] int32, when it was reached.
    """

    inner: Any
    best_params: Any
    best_score: jax.Array
    best_env_steps: jax.Array


@struct.dataclass
class Evaluated(Learner):
    """`learner`, evaluated after every `every` of its updates, which make one update of this.

    Attributes:
      learner: any learner whose `act` is what is to be judged.
      every: updates between two evaluations.
      episodes: of an interim evaluation. final_episodes: of the last policy's and the best one's evaluation.
      greedy: handed to `act`.
      observers: wrappers put around the world in evaluations; of the metrics that they add, the last step's count.

    Raises:
      ValueError: for a number below 1.
    """

    learner: Any
    every: int = struct.field(pytree_node=False, default=1)
    episodes: int = struct.field(pytree_node=False, default=32)
    final_episodes: int = struct.field(pytree_node=False, default=256)
    greedy: bool = struct.field(pytree_node=False, default=True)
    observers: tuple[type, ...] = struct.field(pytree_node=False, default=())

    def __post_init__(self) -> None:
        for name in ("every", "episodes", "final_episodes"):
            check_integer(self, name, 1)

    # --- protocol --------------------------------------------------------------------------------

    @property
    def offline(self) -> bool:
        """That of the wrapped learner."""
        return self.learner.offline

    @property
    def default_steps(self) -> int:
        """That of the wrapped learner."""
        return self.learner.default_steps

    @property
    def update_steps(self) -> int:
        """Environment steps between two evaluations."""
        return self.every * self.learner.update_steps

    def num_updates(self, steps: int) -> int:
        """Number of evaluations in a run of `steps` environment steps."""
        updates = self.learner.num_updates(steps)
        if updates % self.every:
            raise ValueError(f"{updates} updates cannot be divided into parts of {self.every} with an evaluation each")
        return updates // self.every

    def validate(self, environment: Any) -> None:
        """Check that the wrapped learner can play the world, and that whole episodes of it can be."""
        self.learner.validate(environment)
        environment = world_of(environment)
        name = type(environment.unwrapped).__name__
        if environment.endless:
            raise ValueError(f"{name} never ends, so there are no whole episodes to evaluate; leave evaluations out")
        if environment.learner_inputs:
            raise ValueError(f"{name} asks its learner for inputs; leave evaluations out")

    def init(self, key: jax.Array, source: Any) -> EvaluatedState:
        """The wrapped learner's start; its policy counts as the best until another was evaluated."""
        inner = self.learner.init(key, source)
        return EvaluatedState(
            params=inner.params,
            key=inner.key,
            updates=jnp.int32(0),
            env_steps=inner.env_steps,
            inner=dataclasses.replace(inner, params=()),
            best_params=inner.params,
            best_score=jnp.float32(-jnp.inf),
            best_env_steps=jnp.int32(0),
        )

    def update(self, state: EvaluatedState, source: Any) -> tuple[EvaluatedState, dict[str, jax.Array]]:
        """`every` updates, then an evaluation; logs means over the updates, and the evaluation as `eval_` + name."""
        inner = dataclasses.replace(state.inner, params=state.params)

        def step(inner: Any, _: Any) -> tuple[Any, dict[str, jax.Array]]:
            return self.learner.update(inner, source)

        inner, logged = jax.lax.scan(step, inner, None, self.every)
        key = jax.random.fold_in(jax.random.fold_in(inner.key, _INTERIM), state.updates)
        found = evaluation.summary(self.play(world_of(source), inner.params, key, self.episodes))
        # Of equal ones the later counts: scores that cannot be passed are often reached early.
        better = found[SCORE] >= state.best_score
        state = EvaluatedState(
            params=inner.params,
            key=inner.key,
            updates=state.updates + 1,
            env_steps=inner.env_steps,
            inner=dataclasses.replace(inner, params=()),
            best_params=jax.tree.map(lambda new, old: jnp.where(better, new, old), inner.params, state.best_params),
            best_score=jnp.where(better, found[SCORE], state.best_score),
            best_env_steps=jnp.where(better, inner.env_steps, state.best_env_steps),
        )
        return state, {**jax.tree.map(jnp.mean, logged), **{f"eval_{name}": value for name, value in found.items()}}

    def evaluate(self, state: EvaluatedState, source: Any) -> dict[str, jax.Array]:
        """Fresh episodes of the last policy (plain names) and of the best (`absolute_` + name), with equal keys.

        `best_score` is the interim evaluation that chose the best policy, `best_env_steps` when that was.
        """
        source = world_of(source)
        own = set(source.metric_units)
        for observer in self.observers:
            source = observer(source)
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), state.params, state.best_params)
        key = jax.random.fold_in(state.key, _FINAL)
        played = jax.vmap(lambda params: self.play(source, params, key, self.final_episodes))(both)
        rows = jax.vmap(evaluation.summary)(played)
        for name in set(source.metric_units) - own:
            rows[name] = rows.pop(f"final_{name}")
        return {
            **{name: value[0] for name, value in rows.items()},
            **{f"absolute_{name}": value[1] for name, value in rows.items()},
            "best_score": state.best_score,
            "best_env_steps": state.best_env_steps.astype(jnp.float32),
        }

    def play(self, env: Environment, params: Any, key: jax.Array, episodes: int) -> evaluation.Episodes:
        """Play `episodes` whole episodes with `params`."""
        return evaluation.play(env, self.learner, params, key, episodes, self.greedy)

    def initial_memory(self, num_agents: int) -> Any:
        """That of the wrapped learner."""
        return self.learner.initial_memory(num_agents)

    def act(
        self, params: Any, memory: Any, observation: Observation, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """What the wrapped learner does."""
        return self.learner.act(params, memory, observation, key, greedy)
