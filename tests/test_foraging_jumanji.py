"""Foraging with variant="jumanji" against Jumanji's LevelBasedForaging: steps from given states, and start states."""

from __future__ import annotations

import dataclasses

import foraging_harness as harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jumanji.environments.routing.lbf.env import LevelBasedForaging
from jumanji.environments.routing.lbf.generator import RandomGenerator
from jumanji.environments.routing.lbf.types import Agent, Food
from jumanji.environments.routing.lbf.types import State as TheirState
from scipy import stats

from marl_bench.envs.foraging.foraging import Foraging

CONFIGS = (
    {"size": 8, "agents": 2, "food": 2, "force_coop": True, "horizon": 20},
    {"size": 7, "agents": 4, "food": 3, "sight": 2, "penalty": 0.25, "horizon": 20},
    {"size": 9, "agents": 5, "food": 4, "penalty": 0.5, "normalize_reward": False, "horizon": 20},
    {"size": 7, "agents": 3, "food": 3, "sight": 3, "grid_observation": True, "penalty": 0.1, "horizon": 20},
)
BATCH, STEPS = 128, 22


def theirs(env: Foraging) -> LevelBasedForaging:
    generator = RandomGenerator(
        grid_size=env.size, fov=env.reach, num_agents=env.agents, num_food=env.food, force_coop=env.force_coop
    )
    return LevelBasedForaging(
        generator, time_limit=env.horizon, grid_observation=env.grid_observation,
        normalize_reward=env.normalize_reward, penalty=env.penalty,
    )  # fmt: skip


def as_theirs(state) -> TheirState:
    """A batch of our states as theirs."""

    def things(kind, row, col, level, **flag):
        position = jnp.stack([row, col], axis=-1).astype(jnp.int32)
        index = jnp.broadcast_to(jnp.arange(row.shape[1]), row.shape)
        return kind(id=index, position=position, level=level.astype(jnp.int32), **flag)

    batch = state.row.shape[0]
    return TheirState(
        agents=things(Agent, state.row, state.col, state.level, loading=jnp.zeros(state.row.shape, bool)),
        food_items=things(
            Food, state.food_row, state.food_col, state.food_level, eaten=jnp.zeros(state.food_row.shape, bool)
        ),
        step_count=state.step_count,
        key=jax.random.split(jax.random.key(0), batch),
    )


@pytest.mark.parametrize("settings", CONFIGS, ids=[f"config{i}" for i in range(len(CONFIGS))])
def test_equals_jumanji(settings):
    """2,816 steps: half of the agents' actions are LOAD beside food, so that groups of all sizes form."""
    env = Foraging(**settings, variant="jumanji")
    other, rng = theirs(env), np.random.default_rng(env.size)
    starts = []
    while len(starts) < BATCH:
        state = harness.start(rng, env, apart=2)
        if (state["food_row"] >= 0).all():
            starts.append(state)
    state = harness.as_state({name: np.stack([start[name] for start in starts]) for name in harness.STATE})

    def body(carry, key):
        mine, their, mask = carry
        key_load, key_action = jax.random.split(key)
        actions = jax.random.randint(key_action, (BATCH, env.agents), 0, 6)
        actions = jnp.where(mask[:, :, 5] & jax.random.bernoulli(key_load, 0.6, actions.shape), 5, actions)
        mine, ours = jax.vmap(env.step)(mine, actions)
        their, timestep = jax.vmap(other.step)(their, actions)
        places = their.agents.position, mine.row, mine.col, their.food_items.eaten, mine.food_level
        kept = tuple((t.step_type, t.reward, t.discount, t.observation) for t in (ours, timestep))
        return (mine, their, ours.observation.action_mask), (places, kept)

    first = state, as_theirs(state), jnp.zeros((BATCH, env.agents, 6), bool)
    keys = jax.random.split(jax.random.key(env.size), STEPS)
    places, (mine, their) = jax.jit(lambda first, keys: jax.lax.scan(body, first, keys)[1])(first, keys)
    position, row, col, eaten, left = places
    np.testing.assert_array_equal(position, jnp.stack([row, col], axis=-1))
    np.testing.assert_array_equal(eaten, left == 0)
    assert eaten.mean() > 0.01 and (np.asarray(mine[0]) == 2).any()
    for a, b in zip(mine[:1] + mine[2:3], their[:1] + their[2:3], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(mine[1], their[1], rtol=3e-7, atol=1e-8)
    for a, b in zip(mine[3], their[3], strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_agent_loads_two_foods_at_once():
    """Jumanji only: food may lie two steps apart, and an agent between counts in full for both."""
    env = Foraging(size=8, agents=2, food=2, variant="jumanji")
    state = {
        "row": [3, 0], "col": [3, 0], "level": [2, 1], "food_row": [2, 4], "food_col": [3, 3], "food_level": [2, 2],
        "food_total": 4, "step_count": 0,
    }  # fmt: skip
    batch = harness.as_state({name: np.array(value)[None] for name, value in state.items()})
    state = jax.tree.map(lambda leaf: leaf[0], batch)
    after, timestep = env.step(state, jnp.array([5, 0]))
    assert timestep.reward.tolist() == [1.0, 0.0] and timestep.discount.tolist() == [0.0, 0.0]
    assert after.food_level.tolist() == [0, 0]
    other, theirs_step = theirs(env).step(jax.tree.map(lambda leaf: leaf[0], as_theirs(batch)), jnp.array([5, 0]))
    assert theirs_step.reward.tolist() == [1.0, 0.0] and other.food_items.eaten.all()


def test_start_states_have_the_law_of_jumanji():
    """Two-sample chi-squared tests at 1e-4 on 8,192 starts each: cells, levels, and how food and agents lie together."""
    env = dataclasses.replace(Foraging(**CONFIGS[0]), variant="jumanji", force_coop=False)
    other, keys = theirs(env), jax.random.split(jax.random.key(3), 8192)
    mine = jax.device_get(jax.jit(jax.vmap(lambda key: env.reset(key)[0]))(keys))
    their = jax.device_get(jax.jit(jax.vmap(lambda key: other.reset(key)[0]))(keys))
    their_food, their_agents = their.food_items.position, their.agents.position

    def features(row, col, level, food_row, food_col, food_level):
        apart = abs(food_row[:, 0] - food_row[:, 1]) * 8 + abs(food_col[:, 0] - food_col[:, 1])
        return {
            "first food": food_row[:, 0] * 8 + food_col[:, 0], "last food": food_row[:, 1] * 8 + food_col[:, 1],
            "apart": apart, "agent": row[:, 0] * 8 + col[:, 0], "agents": row[:, 0] * 8 + row[:, 1],
            "rows": (row[:, 0] + 10) * 8 - food_row[:, 0], "levels": level[:, 0] * 3 + level[:, 1],
            "food levels": food_level[:, 0] * 5 + food_level[:, 1],
        }  # fmt: skip

    ours = features(*(np.asarray(x, int) for x in (mine.row, mine.col, mine.level, *mine.foods)))
    reference = features(
        their_agents[..., 0], their_agents[..., 1], their.agents.level, their_food[..., 0], their_food[..., 1],
        their.food_items.level,
    )  # fmt: skip
    for name in ours:
        size = max(ours[name].max(), reference[name].max()) + 1
        table = np.stack([np.bincount(x[name], minlength=size) for x in (ours, reference)])
        table = table[:, table.sum(axis=0) > 10]
        assert stats.chi2_contingency(table).pvalue > 1e-4, name
    assert not (mine.row[:, :, None] == mine.food_row[:, None]).any()
    assert not (mine.row[:, :, None] == mine.food_col[:, None]).any()
