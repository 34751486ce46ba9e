"""The absolute metric on a learner whose policy at each update is known: the best is kept, and fresh episodes judge it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import marl_bench
from marl_bench.absolute_metric import Evaluated
from marl_bench.environment import Environment, Observation, TimeStep
from marl_bench.envs.social.metrics import SocialMetrics
from marl_bench.errors import UsageError
from marl_bench.experiments.cells import SweepConfig, expand
from marl_bench.learner import Learner, TrainState

LEVELS = (1, 2, 7, 3, 9, 5, 4, 8)
"""What the learner plays after each of its updates."""


@struct.dataclass
class LuckState:
    step: jax.Array
    luck: jax.Array


@struct.dataclass
class Luck(Environment):
    """Three steps, each pays agent 0 its action and agent 1 half of its own, plus the episode's luck, 0 or 1."""

    @property
    def num_agents(self) -> int:
        return 2

    @property
    def num_actions(self) -> int:
        return 10

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (1,)

    @property
    def fixed_horizon(self) -> int:
        return 3

    def _observed(self, state: LuckState) -> Observation:
        return self.observe_view(jnp.zeros((2, 1)), state.step)

    def reset(self, key: jax.Array) -> tuple[LuckState, TimeStep]:
        state = LuckState(jnp.int32(0), jax.random.bernoulli(key) * 1.0)
        return state, self.restart(self._observed(state))

    def step(self, state: LuckState, actions: jax.Array) -> tuple[LuckState, TimeStep]:
        state = LuckState(state.step + 1, state.luck)
        reward = actions * jnp.array([1.0, 0.5]) + state.luck
        return state, self.transition(reward, self._observed(state), terminated=state.step >= 3)


@struct.dataclass
class Scheduled(Learner):
    """Plays `levels[k]` after k + 1 updates."""

    levels: tuple[int, ...] = struct.field(pytree_node=False, default=LEVELS)
    evaluation_episodes: int = struct.field(pytree_node=False, default=64)
    evaluation_greedy: bool = struct.field(pytree_node=False, default=True)

    @property
    def default_steps(self) -> int:
        return 40

    @property
    def update_steps(self) -> int:
        return 5

    def num_updates(self, steps: int) -> int:
        return steps // 5

    def init(self, key, source) -> TrainState:
        return TrainState(jnp.int32(0), key, jnp.int32(0), jnp.int32(0))

    def update(self, state, source):
        params = jnp.asarray(self.levels)[state.updates]
        state = dataclasses.replace(
            state, params=params, updates=state.updates + 1, env_steps=state.env_steps + self.update_steps
        )
        return state, {"level": params * 1.0}

    def act(self, params, memory, observation, key, greedy=False):
        return jnp.full(2, params), memory


@pytest.fixture(scope="module")
def trained():
    """Learner, final state [seeds], logged metrics [evaluations, seeds], results [seeds]."""
    learner = Evaluated(Scheduled(), every=2, episodes=8, final_episodes=64, observers=(SocialMetrics,))

    def cell(seed):
        state = learner.init(jax.random.key(seed), Luck())
        state, logged = jax.lax.scan(lambda s, _: learner.update(s, Luck()), state, None, 4)
        return state, logged, learner.evaluate(state, Luck())

    return learner, *jax.jit(jax.vmap(cell))(jnp.arange(3))


def returns(level, luck):
    """Sum over both agents of an episode's return."""
    return 3 * 1.5 * level + 6 * luck


def test_the_best_evaluation_is_kept_and_fresh_episodes_judge_it(trained):
    learner, state, logged, results = trained
    assert learner.num_updates(40) == 4 and learner.update_steps == 10
    np.testing.assert_array_equal(state.env_steps, 40)
    evaluated = np.array([2, 3, 5, 8])  # every second of LEVELS; 9 is never evaluated
    spread = np.asarray(logged["eval_return_sum"]) - returns(evaluated, 0.0)
    assert np.all((spread >= 0) & (spread <= 6)) and len(np.unique(spread)) > 1, "only luck differs between evaluations"
    np.testing.assert_allclose(logged["level"][0], np.mean(np.array(LEVELS).reshape(4, 2), axis=1))
    np.testing.assert_array_equal(state.best_params, 8)
    np.testing.assert_array_equal(results["best_env_steps"], 40)
    np.testing.assert_array_equal(results["best_score"], np.max(logged["eval_return_sum"], axis=1))
    luck = np.asarray(results["absolute_return_sum"]) - returns(8, 0.0)
    assert np.all((luck > 1) & (luck < 5)), "64 fresh episodes, half of them lucky"
    assert np.all(np.abs(results["absolute_return_sum"] - results["best_score"]) > 0), "not the episodes that chose it"
    np.testing.assert_array_equal(
        results["absolute_return_sum"], results["return_sum"]
    )  # best is last here, keys are equal


def test_a_worse_end_does_not_replace_the_best():
    learner = Evaluated(Scheduled((1, 9, 2, 0)), every=1, episodes=8, final_episodes=16)
    state = learner.init(jax.random.key(0), Luck())
    state, _ = jax.lax.scan(lambda s, _: learner.update(s, Luck()), state, None, 4)
    results = learner.evaluate(state, Luck())
    assert int(state.params) == 0 and int(state.best_params) == 9 and float(results["best_env_steps"]) == 10
    np.testing.assert_allclose(results["absolute_return_sum"] - results["return_sum"], returns(9, 0.0))


def test_of_equal_evaluations_the_later_is_kept():
    learner = Evaluated(Scheduled((9,) * 10 + (1,)), every=1, episodes=1, final_episodes=1)
    state = learner.init(jax.random.key(0), Luck())
    state, logged = jax.lax.scan(lambda s, _: learner.update(s, Luck()), state, None, 11)
    score = np.asarray(logged["eval_return_sum"])
    latest = int(np.flatnonzero(score == score.max())[-1])
    assert int(state.best_params) == 9 and int(state.best_env_steps) == 5 * (latest + 1)
    assert (score == score.max()).sum() > 1, "there is a tie"


def test_social_metrics_of_whole_episodes(trained):
    results = trained[-1]
    luck = np.round((np.asarray(results["return_sum"]) - returns(8, 0.0)) / 6 * 64) / 64
    low, high = 3 * np.array([8.0, 4.0]), 3 * np.array([9.0, 5.0])  # returns without and with luck
    equal = [1 - abs(r[0] - r[1]) / (2 * r.sum()) for r in (low, high)]
    np.testing.assert_allclose(results["social/equality"], (1 - luck) * equal[0] + luck * equal[1], rtol=1e-5)
    np.testing.assert_allclose(results["social/efficiency"], np.asarray(results["return_sum"]) / 3, rtol=1e-5)
    np.testing.assert_allclose(results["social/sustainability"], 1.0)
    assert not [name for name in results if name.startswith("final_social/")]


def test_sweeps_ask_for_it():
    tokens = ["env=climbing", "learner=ippo", "learner.num_envs=4", "learner.num_steps=25", "steps=1000"]
    plain, asked = SweepConfig.from_tokens(tokens), SweepConfig.from_tokens([*tokens, "evaluations=5"])
    assert "evaluations" not in plain.to_mapping() and asked.to_mapping()["evaluations"] == 5
    assert SweepConfig.from_mapping(asked.to_mapping()).digest() == asked.digest() != plain.digest()
    (cell,) = expand(asked)
    assert isinstance(cell.learner, Evaluated) and cell.learner.every == 2 and not cell.learner.greedy
    assert (cell.learner.episodes, cell.learner.final_episodes) == (32, 256)
    with pytest.raises(UsageError, match=r"evaluations=4: must divide the 10 updates of a run; use steps=800"):
        expand(SweepConfig.from_tokens([*tokens, "evaluations=4"]))
    with pytest.raises(UsageError, match="never ends"):
        expand(SweepConfig.from_tokens(["env=network_dilemma", "learner=ippo", "steps=20480", "evaluations=5"]))


def test_the_last_policy_of_a_run_is_loaded_or_the_best(tmp_path):
    tokens = [f"env={__name__}:Luck", f"learner={__name__}:Scheduled", "steps=40"]
    for name, more in (("evaluated", ["evaluations=8"]), ("plain", [])):
        config = SweepConfig.from_tokens([*tokens, *more])
        marl_bench.run_sweep(config, tmp_path / name, wandb="disabled", quiet=True)
    played = {best: marl_bench.load_policy(tmp_path / "evaluated", best=best).params for best in (False, True)}
    assert {best: int(level) for best, level in played.items()} == {False: LEVELS[-1], True: max(LEVELS)}
    assert int(marl_bench.load_policy(tmp_path / "plain").params) == LEVELS[-1]
    with pytest.raises(UsageError, match=r"plain was not evaluated while it trained; run it with evaluations=N"):
        marl_bench.load_policy(tmp_path / "plain", best=True)
