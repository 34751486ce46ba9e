"""Execution of dec_pomfc: who reads what, one draw for all or one each, plans, and swarms of other sizes."""

import functools
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_swarm import LinearSwarm

from marl_bench import make, make_learner
from marl_bench.algorithms.mean_field import execution
from marl_bench.algorithms.mean_field.mean_field_mdp import MeanFieldMDP
from marl_bench.environment import Observation

SWARM: Any = LinearSwarm(agents=6, horizon=4, start_spread=0.8, span=2.0, largest=2.0)
FIELDS = {"num_envs": 1, "num_steps": 4, "minibatches": 1, "hidden_sizes": (8,), "time": "scalar"}


@functools.cache
def prepared(env, **fields):
    """A learner and parameters of a policy that is far from the one it starts with."""
    learner = make_learner("dec_pomfc", **{**FIELDS, **fields})
    learner.validate(env)

    @jax.jit
    def init(key):
        params = learner.init(key, env).params
        output = params["actor"]["output"]
        params["actor"]["output"] = {"w": 60 * output["w"], "b": jax.random.normal(key, output["b"].shape)}
        return {**params, "plan": jax.random.uniform(key, params["plan"].shape)}

    return learner, init(jax.random.key(0))


def observed(view, step=1):
    return Observation(jnp.asarray(view), jnp.ones((len(view), 0), bool), jnp.int32(step))


def policy(learner, params, env, protocol):
    return jax.jit(execution.policy(learner, params, env, protocol, jax.random.key(5)))


# --- what an agent needs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", ["params", "components"])
def test_an_agent_acts_on_its_own_view_only(mix):
    """Everything else is changed: the places of all others, hence their views and the mean field."""
    env = make("aggregation", agents=6, horizon=4)
    learner, params = prepared(env, mix=mix)
    planned, central = (
        execution.policy(learner, params, env, protocol, jax.random.key(5)) for protocol in ("OL", "CE-mode")
    )

    @jax.jit
    def acted(shift, own):
        """View, and actions by `act`, by its greedy form, and by two protocols, after a step from places moved by `shift`."""
        key = jax.random.key(2)
        state, _ = env.reset(jax.random.key(1))
        state, timestep = env.step(
            state.replace(position=state.position.at[:, 1:].add(shift)), jnp.zeros(env.action_spec.shape)
        )
        seen = timestep.observation
        seen = seen._replace(agents_view=seen.agents_view.at[0].add(own))
        acts = [learner.act(params, None, seen, key, greedy)[0] for greedy in (False, True)]
        return seen.agents_view, *acts, planned(state, seen, key), central(state, seen, key)

    one, two, own = (np.stack(acted(*moves)) for moves in ((0.0, 0.0), (0.7, 0.0), (0.0, 0.1)))
    assert one.shape == (5, 6, 2) and np.abs(one - two)[0, 1:].max(1).min() > 0.1
    np.testing.assert_array_equal(one[:4, 0], two[:4, 0])
    assert np.abs(one - two)[1:, 1:].max(axis=(1, 2)).min() > 0.01
    assert np.abs(one - two)[4, 0].max() > 1e-4  # who reads the mean field does notice
    assert (np.abs(one - own)[1:3, 0].max(1) > 0).all()


def test_estimates_come_from_those_in_sight():
    learner, params = prepared(SWARM, max_std=0.0, min_std=0.0)
    mdp = learner.mdp(params, SWARM)
    state, timestep = SWARM.reset(jax.random.key(0))
    state = state.replace(x=jnp.array([-1.5, -1.2, -0.9, 0.7, 1.1, 3.0]))  # who is nearer than 1 is seen
    estimates = jax.jit(lambda s: execution._estimates(mdp, s, timestep.observation))
    found = np.asarray(estimates(state))
    for agent, seen in enumerate(([0, 1, 2], [0, 1, 2], [0, 1, 2], [3, 4], [3, 4], [5])):
        expected = mdp.features(SWARM.mean_field_axes, SWARM.mean_field(state)[:, np.array(seen)])
        np.testing.assert_allclose(found[agent, :-1], expected, atol=1e-5)
    assert (found[:, -1] == 0).all()
    moved = state.replace(x=state.x.at[5].set(2.5))
    view = observed(state.x[:, None] / 2)
    local, central = (policy(learner, params, SWARM, protocol) for protocol in ("DE-est", "CE-mode"))
    for play, same in ((local, True), (central, False)):
        one, two = (np.asarray(play(s, view, jax.random.key(0)))[:5] for s in (state, moved))
        assert (one == two).all() == same


# --- one draw for all, or one each ---------------------------------------------------------------------------


def test_a_planner_draws_once_for_all():
    """Agents that see the same and have no noise of their own move alike, in each copy in its own way."""
    env = SWARM.replace(start_spread=0.0, noise=0.0)
    learner, params = prepared(SWARM, max_std=0.0, min_std=0.0)
    mdp = learner.mdp(params, env)

    @jax.jit
    def moved(key):
        state, timestep = mdp.reset(key)
        law = learner.planner(params, timestep.observation.agents_view)
        return mdp.step(state, law.sample(jax.random.normal(key, law.mean.shape)))[0].inner.x

    x = np.asarray(jax.vmap(moved)(jax.random.split(jax.random.key(0), 3)))
    assert (x == x[:, :1]).all() and len(np.unique(x[:, 0])) == 3
    # And with noise of their own they do not.
    noisy, _ = prepared(SWARM)
    state, _ = noisy.mdp(params, env).reset(jax.random.key(0))
    x = np.asarray(jax.jit(noisy.mdp(params, env).step)(state, jnp.zeros((1, mdp.rule.size)))[0].inner.x)
    assert len(np.unique(x)) == 6


@pytest.mark.parametrize(
    ("protocol", "alike"), [("CE", True), ("CE-mode", True), ("DE", False), ("OL", True), ("STAT", True)]
)
def test_who_draws(protocol, alike):
    env = SWARM.replace(start_spread=0.0)
    learner, params = prepared(SWARM, max_std=0.0, min_std=0.0)
    play = policy(learner, params, env, protocol)
    state, timestep = env.reset(jax.random.key(0))
    actions = [np.asarray(play(state, timestep.observation, jax.random.key(seed))) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert (len(np.unique(actions[0])) == 1) == alike
    assert (actions[0] == actions[2]).all() == (protocol not in ("CE", "DE"))


# --- plans ---------------------------------------------------------------------------------------------------


@functools.cache
def planned(env, runs=execution.NOMINAL_RUNS):
    """[T, K] of a policy without noise, from key 5."""
    learner, params = prepared(SWARM, max_std=0.0, min_std=0.0)
    return jax.jit(lambda key: execution.plan(learner, params, env, key, runs))(jax.random.key(5))


def played(env, policy, key=0):
    """[T, N] places of a run."""
    state, timestep = env.reset(jax.random.key(key))

    def step(carry, _):
        state, observation = carry
        state, timestep = env.step(state, policy(state, observation, jax.random.key(9)))
        return (state, timestep.observation), state.x

    return np.asarray(jax.jit(lambda: jax.lax.scan(step, (state, timestep.observation), None, env.horizon)[1])())


def test_replay_of_a_plan_is_what_the_planner_would_do(monkeypatch):
    """With the features frozen to the plan's, the open loop is the closed one but for rounding; else it is not."""
    learner, params = prepared(SWARM, max_std=0.0, min_std=0.0)
    key = jax.random.key(5)
    views = planned(SWARM)
    assert views.shape == (4, 6)
    replayed = played(SWARM, execution.policy(learner, params, SWARM, "OL", key))
    central = execution.policy(learner, params, SWARM, "CE-mode")
    assert np.abs(replayed - played(SWARM, central)).max() > 1e-3
    monkeypatch.setattr(MeanFieldMDP, "view", lambda self, inner, step_count: views[step_count])
    np.testing.assert_allclose(replayed, played(SWARM, central), atol=1e-6)


def test_a_plan_is_the_mean_of_simulated_swarms():
    """Without any noise all runs are alike, and an open loop loses nothing."""
    learner, params = prepared(SWARM, max_std=0.0, min_std=0.0)
    env = SWARM.replace(start_spread=0.0, noise=0.0)
    mdp = learner.mdp(params, env)
    central = execution.policy(learner, params, env, "CE-mode")
    x = np.concatenate([np.ones((1, 6)), played(env, central)[:-1]]).astype(np.float32)
    view = jax.jit(lambda x, step: mdp.view(env.reset(jax.random.key(0))[0].replace(x=x), step))
    expected = [view(row, jnp.int32(step)) for step, row in enumerate(x)]
    np.testing.assert_allclose(planned(env), np.stack(expected), atol=1e-5)
    np.testing.assert_allclose(
        played(env, execution.policy(learner, params, env, "OL", jax.random.key(1))), played(env, central), atol=1e-5
    )


def test_plans_by_the_clock():
    """`act`, OL and OL-seed read the row of the step, then the last; STAT reads one for all."""
    learner, params = prepared(SWARM, max_std=0.0, min_std=0.0)
    key, view = jax.random.key(5), np.linspace(-0.8, 0.8, 6, dtype=np.float32)[:, None]
    mode = jax.jit(lambda views: learner.planner(params, views).mode())
    apply = jax.jit(lambda xi: learner.apply_rule(params, xi, jnp.asarray(view), key))
    for protocol, runs in (("OL", 16), ("OL-seed", 1), ("STAT", 16), ("act", None)):
        views = params["plan"] if runs is None else planned(SWARM, runs)
        table = np.asarray(mode(views))
        if runs is None:
            play = jax.jit(lambda state, observation, key: learner.act(params, None, observation, key)[0])
        else:
            play = policy(learner, params, SWARM, protocol)
        for step, row in ((0, 0), (2, 2), (3, 3), (9, 3)):
            xi = table.mean(0) if protocol == "STAT" else table[row]
            np.testing.assert_allclose(play(None, observed(view, step), key), apply(xi), atol=1e-6)
        assert np.abs(table[0] - table[2]).max() > 1e-3


def seeded_table(seed):
    """Digest of the parameters that agents compute who share nothing but the policy and a key."""
    learner, params = prepared(SWARM)
    views = execution.plan(learner, params, SWARM, jax.random.key(seed), runs=1)
    return hashlib.sha256(np.asarray(learner.planner(params, views).mode()).tobytes()).hexdigest()


def test_two_processes_share_a_seed():
    code = "import conftest, test_mean_field_execution as t; print(t.seeded_table(3))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert other.stdout.strip() == seeded_table(3) != seeded_table(4)


def test_unknown_protocol():
    learner, params = prepared(SWARM)
    with pytest.raises(ValueError, match=r"protocol='CE-mod': must be one of CE, CE-mode, .*did you mean 'CE-mode'"):
        execution.policy(learner, params, SWARM, "CE-mod")


# --- other sizes ---------------------------------------------------------------------------------------------


def test_a_policy_plays_with_any_number_of_agents():
    of = {agents: make("aggregation", agents=agents, horizon=4) for agents in (7, 50, 1000)}
    learner, params = prepared(of[50])
    shapes = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), jax.eval_shape(learner.init, jax.random.key(0), env).params)
        for env in of.values()
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    for agents in (7, 1000):
        env = of[agents]

        @jax.jit
        def play(key, env=env):
            state, timestep = env.reset(key)
            central = execution.policy(learner, params, env, "CE-mode")(state, timestep.observation, key)
            return central, learner.act(params, None, timestep.observation, key)[0]

        for actions in play(jax.random.key(0)):
            assert actions.shape == (agents, 2) and np.isfinite(actions).all() and np.ptp(actions) > 0.1
