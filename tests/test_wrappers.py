import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from marl_bench.environment import Environment, StepType
from marl_bench.wrappers import AutoReset, EpisodeMetrics, TimeLimit, WrappedState, Wrapper, register_with_jumanji


@struct.dataclass
class CountState:
    start: jax.Array
    count: jax.Array


@struct.dataclass
class Counter(Environment):
    """Two agents see start + count; rewards are (gain, 2 gain); action 1 ends the game, time ends it at `horizon`."""

    gain: Any = 1.0
    horizon: Any = struct.field(pytree_node=False, default=3)
    endless: bool = struct.field(pytree_node=False, default=False)

    num_agents = property(lambda self: 2)
    num_actions = property(lambda self: 2)
    observation_shape = property(lambda self: (1,))
    fixed_horizon = property(lambda self: self.horizon)
    learner_inputs = property(lambda self: ("progress",))
    num_codes = property(lambda self: 4)
    metric_units = property(lambda self: {"count": "steps"})

    def view(self, state):
        return self.observe_view(jnp.full((2, 1), state.start + state.count), state.count)

    def reset(self, key):
        state = CountState(jax.random.uniform(key), jnp.int32(0))
        return state, self.restart(self.view(state), {"count": 0})

    def step(self, state, actions):
        state = state.replace(count=state.count + 1)
        truncated = False if self.horizon is None else state.count >= self.horizon
        terminated = (actions == 1).all()
        reward = self.gain * jnp.array([1.0, 2.0])
        return state, self.transition(reward, self.view(state), terminated, truncated, {"count": state.count})

    def global_state(self, state):
        return state.start[None]

    def render(self, state):
        return np.full((1, 1, 3), int(state.count), np.uint8)

    def prepare(self, seed):
        return self.replace(gain=float(seed))

    def observation_code(self, state):
        return jnp.full(2, state.count, jnp.uint8)

    def code_observations(self):
        return np.arange(4.0, dtype=np.float32)[:, None]

    def code_outcome(self, code, agent):
        return code.astype(jnp.int32), agent.astype(jnp.float32)


STAY = jnp.zeros(2, jnp.int32)
STOP = jnp.ones(2, jnp.int32)


def play(environment, key, actions):
    """Scan `actions` [T, 2]: the reset's timestep, and stacked timesteps and states."""

    def advance(state, joint):
        state, timestep = environment.step(state, joint)
        return state, (timestep, state)

    def run(environment_key):
        state, first = environment.reset(environment_key)
        return first, state, jax.lax.scan(advance, state, actions)[1]

    return jax.jit(run)(key)


@pytest.fixture(params=["typed", "raw"])
def key(request):
    return jax.random.key(7) if request.param == "typed" else jax.random.PRNGKey(7)


def test_auto_reset_follows_the_episodes_of_the_advertised_keys(key):
    environment = Counter()
    first, start, (timesteps, _) = play(AutoReset(environment), key, jnp.zeros((7, 2), jnp.int32))

    key_1, later = jax.random.split(key)
    key_2, later = jax.random.split(later)
    key_3, _ = jax.random.split(later)
    starts = [float(environment.reset(k)[0].start) for k in (key_1, key_2, key_3)]
    a, b, c = starts
    assert len(set(starts)) == 3
    assert isinstance(start, WrappedState)

    # count:                 1      2      3|0    1      2      3|0    1
    np.testing.assert_allclose(
        timesteps.observation.agents_view[:, 0, 0], [a + 1, a + 2, b, b + 1, b + 2, c, c + 1], rtol=1e-6
    )
    np.testing.assert_allclose(
        timesteps.extras["final_observation"].agents_view[:, 0, 0],
        [a + 1, a + 2, a + 3, b + 1, b + 2, b + 3, c + 1],
        rtol=1e-6,
    )
    assert timesteps.step_type.tolist() == [1, 1, 2, 1, 1, 2, 1]
    assert timesteps.extras["is_first"].tolist() == [False, False, True, False, False, True, False]
    assert timesteps.observation.step_count.tolist() == [1, 2, 0, 1, 2, 0, 1]
    assert timesteps.extras["metrics"]["count"].tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert timesteps.reward.tolist() == [[1.0, 2.0]] * 7
    assert timesteps.discount.tolist() == [[1.0, 1.0]] * 7
    assert bool(first.extras["is_first"])
    assert float(first.extras["final_observation"].agents_view[0, 0]) == pytest.approx(a)


def test_termination_and_truncation_stay_apart_under_auto_reset():
    actions = jnp.stack([STAY, STOP, STAY, STAY, STAY])
    _, _, (timesteps, _) = play(AutoReset(Counter()), jax.random.key(0), actions)
    assert timesteps.step_type.tolist() == [1, 2, 1, 1, 2]
    assert timesteps.discount[:, 0].tolist() == [1, 0, 1, 1, 1]
    assert timesteps.extras["final_observation"].step_count.tolist() == [1, 2, 1, 2, 3]


def test_auto_reset_lane_equals_the_key_alone():
    wrapped = AutoReset(Counter())
    keys = jax.random.split(jax.random.key(3), 4)
    actions = jax.random.bernoulli(jax.random.key(1), 0.5, (4, 12, 2)).astype(jnp.int32)
    batch = jax.vmap(lambda k, a: play(wrapped, k, a)[2][0])(keys, actions)
    assert len({tuple(row) for row in batch.step_type.tolist()}) > 1
    for lane in range(4):
        alone = play(wrapped, keys[lane], actions[lane])[2][0]
        jax.tree.map(lambda x, y, lane=lane: np.testing.assert_array_equal(x[lane], y), batch, alone)


def test_stacked_wrapped_environments_keep_their_own_leaves():
    stack = AutoReset(EpisodeMetrics(Counter(gain=jnp.array([1.0, 10.0]))))

    def total(environment):
        _, _, (timesteps, _) = play(environment, jax.random.key(0), jnp.zeros((3, 2), jnp.int32))
        return timesteps.extras["metrics"]["return/sum"][-1]

    assert jax.vmap(total)(stack).tolist() == [9.0, 90.0]


def test_an_endless_environment_traces_no_restart():
    def names(environment):
        state, _ = environment.reset(jax.random.key(0))
        return str(jax.make_jaxpr(environment.step)(state, STAY))

    assert "random_split" in names(AutoReset(Counter()))
    endless = AutoReset(Counter(horizon=None, endless=True))
    program = names(endless)
    assert "random" not in program and "cond" not in program
    _, _, (timesteps, states) = play(endless, jax.random.key(0), jnp.zeros((5, 2), jnp.int32))
    assert not timesteps.extras["is_first"].any()
    assert states.inner.count.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "wrap", [AutoReset, EpisodeMetrics, lambda e: TimeLimit(e, 2), lambda e: AutoReset(EpisodeMetrics(TimeLimit(e, 2)))]
)
def test_reset_and_step_return_the_same_trees(wrap):
    environment = wrap(Counter())
    reset = jax.eval_shape(environment.reset, jax.random.key(0))
    step = jax.eval_shape(environment.step, reset[0], STAY)
    assert jax.tree.structure(reset) == jax.tree.structure(step)
    for before, after in zip(jax.tree.leaves(reset), jax.tree.leaves(step), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)


def test_wrappers_do_not_change_the_inner_extras():
    seen = []

    class Spy:
        endless = False
        num_agents = 2

        def reset(self, key):
            state, timestep = Counter().reset(key)
            seen.append(timestep.extras)
            return state, timestep

    EpisodeMetrics(Spy()).reset(jax.random.key(0))
    AutoReset(Spy()).reset(jax.random.key(0))
    assert [sorted(extras) for extras in seen] == [["metrics"]] * 2
    assert [sorted(extras["metrics"]) for extras in seen] == [["count"]] * 2


def test_time_limit_truncates_and_keeps_termination():
    limited = TimeLimit(Counter(horizon=None, endless=True), 2)
    assert (limited.fixed_horizon, limited.endless) == (2, False)
    state, _ = limited.reset(jax.random.key(0))
    state, one = limited.step(state, STAY)
    _, truncated = limited.step(state, STAY)
    _, terminated = limited.step(state, STOP)
    assert (int(one.step_type), int(truncated.step_type), int(terminated.step_type)) == (1, 2, 2)
    assert truncated.discount.tolist() == [1, 1] and terminated.discount.tolist() == [0, 0]
    assert truncated.step_type.dtype == StepType.LAST.dtype


@pytest.mark.parametrize(("horizon", "limit", "declared"), [(3, 2, 2), (3, 9, 3), (None, 9, None)])
def test_time_limit_declares_the_horizon(horizon, limit, declared):
    assert TimeLimit(Counter(horizon=horizon), limit).fixed_horizon == declared


def test_episode_metrics_are_reported_at_the_end_only():
    actions = jnp.stack([STAY, STAY, STAY, STAY, STOP])
    _, _, (timesteps, _) = play(AutoReset(EpisodeMetrics(Counter())), jax.random.key(0), actions)
    metrics = timesteps.extras["metrics"]
    # Rewards are (1, 2) a step; episodes last 3 and 2 steps.
    assert metrics["return/sum"].tolist() == [0, 0, 9, 0, 6]
    assert metrics["return/mean_per_agent"].tolist() == [0, 0, 4.5, 0, 3]
    assert metrics["episode_length"].tolist() == [0, 0, 3, 0, 2]
    assert metrics["count"].tolist() == [1, 2, 3, 1, 2]
    assert sorted(EpisodeMetrics(Counter()).metric_units) == sorted(metrics)


def test_every_member_is_forwarded():
    inner = Counter(gain=4.0)
    wrapped = AutoReset(EpisodeMetrics(TimeLimit(inner, 9)))
    helpers = {"observe_view", "restart", "transition"}
    members = {name for name in vars(Environment) if not name.startswith("_")} - helpers
    assert {name for name in members if name not in vars(Wrapper)} == set()
    for name in ("num_agents", "num_actions", "observation_shape", "fixed_horizon", "learner_inputs", "num_codes"):
        assert getattr(wrapped, name) == getattr(inner, name)
    assert wrapped.unwrapped is inner
    state, _ = wrapped.reset(jax.random.key(0))
    state, _ = wrapped.step(state, STAY)
    core = state.inner.inner
    assert wrapped.global_state(state).tolist() == inner.global_state(core).tolist()
    assert wrapped.render(state).tolist() == [[[1, 1, 1]]]
    assert wrapped.observation_code(state).tolist() == [1, 1]
    assert wrapped.code_observations().tolist() == inner.code_observations().tolist()
    action, reward = wrapped.code_outcome(jnp.array([3]), jnp.array([1]))
    assert (action.tolist(), reward.tolist()) == ([3], [1.0])
    assert wrapped.action_spec.num_values.tolist() == [2, 2]
    prepared = wrapped.prepare(12)
    assert isinstance(prepared, AutoReset) and prepared.unwrapped == Counter(gain=12.0)


def test_wrong_order_and_limits_are_refused():
    with pytest.raises(ValueError, match="AutoReset must be outermost"):
        TimeLimit(AutoReset(Counter()), 3)
    with pytest.raises(ValueError, match="limit=0"):
        TimeLimit(Counter(), 0)
    with pytest.raises(TypeError, match=r"limit=2\.5"):
        TimeLimit(Counter(), 2.5)  # pyright: ignore[reportArgumentType]


def test_wrappers_are_frozen_pytrees():
    wrapped = AutoReset(Counter(gain=3.0))
    assert jax.tree.leaves(wrapped) == [3.0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        wrapped.environment = Counter()


def test_registered_with_jumanji():
    jumanji = pytest.importorskip("jumanji")
    register_with_jumanji()
    assert isinstance(AutoReset(Counter()), jumanji.Environment)
