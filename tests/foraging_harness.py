"""Level-based foraging against its references: start states, reference objects with injected states, recorded play.

What is recorded is a dict of arrays with one transition a row: the state before (`row`, `col`, `level`, `food_row`, `food_col`,
`food_level`, `food_total`, `step_count`), the `actions`, and what the reference made of them (`next_row`, `next_col`,
`next_food`, `reward`, `done`, `mask`, `view`).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.foraging.foraging import Foraging, State

STATE = ("row", "col", "level", "food_row", "food_col", "food_level", "food_total", "step_count")
DTYPES = (*(np.int8,) * 6, np.int16, np.int32)
CHUNK = 250

CONFIGS = (
    {"size": 8, "agents": 2, "food": 2, "force_coop": True},
    {"size": 8, "agents": 2, "food": 2, "sight": 2, "penalty": 0.1},
    {"size": 5, "agents": 3, "food": 3, "penalty": 0.25, "normalize_reward": False},
    {"size": 5, "agents": 6, "food": 2, "sight": 1, "horizon": 12},
    {"size": 6, "agents": 5, "food": 4, "sight": 2, "observe_agent_levels": False},
    {"size": 10, "agents": 3, "food": 3, "sight": 3, "timeout_is_terminal": True, "horizon": 20},
    {"size": 6, "agents": 4, "food": 3, "grid_observation": True, "penalty": 0.1},
    {"size": 7, "agents": 4, "food": 2, "sight": 2, "grid_observation": True, "observe_agent_levels": False},
    {"size": 6, "columns": 9, "agents": 4, "food": 4, "sight": 3, "force_coop": True},
    {"size": 12, "agents": 6, "food": 5, "sight": 1, "max_player_level": 4, "normalize_reward": False},
    {"size": 15, "agents": 4, "food": 5, "max_player_level": 3},
    {"size": 7, "agents": 6, "food": 3, "max_food_level": 7, "penalty": 0.05, "horizon": 25},
    {"size": 5, "agents": 4, "food": 1, "force_coop": True, "team_reward": "sum", "sight": 4},
)


def start(rng: np.random.Generator, env: Foraging, apart: int = 3) -> dict[str, np.ndarray]:
    """A start state by the rules of the spawner (and now and then one that it reaches later: food eaten, agents stacked)."""
    rows, cols, count = env.rows, env.cols, env.agents
    cells = rng.permutation(rows * cols)[:count]
    row, col = np.divmod(cells, cols)
    if rng.random() < 0.3:
        # A crowd: conflicts between agents are frequent.
        inner = rng.permutation(min(3, rows) * min(3, cols))
        if len(inner) >= count:
            row, col = (inner[:count] // 3) + rng.integers(0, rows - 2), inner[:count] % 3 + rng.integers(0, cols - 2)
    level = rng.integers(int(np.min(env.min_player_level)), int(np.max(env.max_player_level)) + 1, count)
    top = int(np.sort(level)[:3].sum()) if env.max_food_level is None else int(np.max(env.max_food_level))
    foods: list[tuple[int, int]] = []
    for _ in range(60):
        r, c = int(rng.integers(1, rows - 1)), int(rng.integers(1, cols - 1))
        far = all(abs(r - y) + abs(c - x) >= apart for y, x in foods)
        if len(foods) < env.food and far and not np.any((row == r) & (col == c)):
            foods.append((r, c))
    foods.sort()
    levels = [top if env.force_coop else int(rng.integers(1, top + 1)) for _ in foods]
    missing = env.food - len(foods)
    return {
        "row": row, "col": col, "level": level,
        "food_row": np.array([f[0] for f in foods] + [-1] * missing),
        "food_col": np.array([f[1] for f in foods] + [-1] * missing),
        "food_level": np.array(levels + [0] * missing), "food_total": np.array(sum(levels)), "step_count": np.array(0),
    }  # fmt: skip


def reference(env: Foraging):
    """A `ForagingEnv` of PyPI lbforaging with the settings of `env`, ready for `inject`."""
    import gymnasium
    from lbforaging.foraging.environment import ForagingEnv

    other = ForagingEnv(
        players=env.agents, min_player_level=env.min_player_level, max_player_level=env.max_player_level,
        min_food_level=env.min_food_level, max_food_level=env.max_food_level, field_size=(env.rows, env.cols),
        max_num_food=env.food, sight=env.reach, max_episode_steps=env.horizon, force_coop=env.force_coop,
        normalize_reward=env.normalize_reward, observe_agent_levels=env.observe_agent_levels, penalty=env.penalty,
    )  # fmt: skip
    other._grid_observation = env.grid_observation
    # Its own space has the wrong shape for windows, and swapped bounds for boards that are not square.
    box = gymnasium.spaces.Box(-1e3, 1e3, env.observation_shape, np.float32)
    other.observation_space = gymnasium.spaces.Tuple([box] * env.agents)
    other.reset(seed=0)
    return other


def inject(other, state: dict[str, np.ndarray]) -> None:
    """Put a state into a reference object."""
    other.field[:] = 0
    for r, c, level in zip(state["food_row"], state["food_col"], state["food_level"], strict=True):
        if level:
            other.field[r, c] = level
    for player, r, c, level in zip(other.players, state["row"], state["col"], state["level"], strict=True):
        player.position, player.level = (int(r), int(c)), int(level)
    other._food_spawned = int(state["food_total"])
    other.current_step = int(state["step_count"])
    other._game_over = False
    assert other.test_gen_valid_moves()


def mask_of(other) -> np.ndarray:
    """[N, 6] bool legal actions of a reference object."""
    mask = np.zeros((len(other.players), 6), bool)
    for i, player in enumerate(other.players):
        mask[i, [action.value for action in other._valid_actions[player]]] = True
    return mask


def advance(other, before: dict[str, np.ndarray], actions: np.ndarray) -> tuple[dict, dict]:
    """Step a reference object. Returns the state after, and the recorded transition."""
    from lbforaging.foraging.environment import Action

    views, reward, done, truncated, _ = other.step([Action(int(a)) for a in actions])
    assert not truncated
    places = np.array([player.position for player in other.players])
    left = np.where(before["food_level"] > 0, other.field[before["food_row"], before["food_col"]], 0)
    assert left.sum() == other.field.sum()
    after = before | {
        "row": places[:, 0], "col": places[:, 1], "food_level": left, "step_count": before["step_count"] + 1,
    }  # fmt: skip
    outcome = {
        "actions": actions, "next_row": places[:, 0], "next_col": places[:, 1], "next_food": left,
        "reward": np.array(reward, np.float32), "done": np.array(done), "mask": mask_of(other), "view": np.stack(views),
    }  # fmt: skip
    return after, before | outcome


def choose(rng: np.random.Generator, mode: int, state: dict[str, np.ndarray], mask: np.ndarray) -> np.ndarray:
    """Actions: 0 uniform over all six; 1 LOAD in 40 % of cases; 2 towards the nearest food, with LOAD beside it."""
    count = len(state["row"])
    actions = rng.integers(0, 6, count)
    if mode == 0:
        return actions
    if mode == 1:
        return np.where(rng.random(count) < 0.4, 5, actions)
    there = state["food_level"] > 0
    if there.any():
        down = state["food_row"][there] - state["row"][:, None]
        right = state["food_col"][there] - state["col"][:, None]
        nearest = np.argmin(np.abs(down) + np.abs(right), axis=1)[:, None]
        down, right = (np.take_along_axis(x, nearest, 1)[:, 0] for x in (down, right))
        go = np.where(np.abs(down) > np.abs(right), np.where(down > 0, 2, 1), np.where(right > 0, 4, 3))
        actions = np.where(rng.random(count) < 0.85, np.where(mask[:, 5], 5, go), actions)
    return actions


def play(env: Foraging, steps: int, seed: int, policy=None) -> dict[str, np.ndarray]:
    """Record `steps` transitions of the reference: episodes from injected starts, two steps past their end.

    `policy(state, mask, rng) -> actions` replaces the actions of every fourth episode.
    """
    rng, other, rows = np.random.default_rng(seed), reference(env), []
    episode = 0
    while len(rows) < steps:
        state, extra, mode = start(rng, env), 2, episode % 4
        if episode % 7 == 0:
            state["step_count"] = np.array(env.horizon - 3)
        inject(other, state)
        while extra and len(rows) < steps:
            mask = mask_of(other)
            scripted = policy is not None and mode == 3
            actions = policy(state, mask, rng) if scripted else choose(rng, mode % 3, state, mask)
            state, row = advance(other, state, actions)
            rows.append(row)
            extra -= int(row["done"])
        episode += 1
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def as_state(record: dict[str, np.ndarray]) -> State:
    """The states before, [B, ...]."""
    return State(*(jnp.asarray(record[name], dtype) for name, dtype in zip(STATE, DTYPES, strict=True)))


@functools.cache
def _stepper(items: tuple) -> object:
    env = Foraging(**dict(items))
    return jax.jit(jax.vmap(env.step))


def ours(settings: dict, record: dict[str, np.ndarray]):
    """Step our environment from every recorded state. Returns (states, timesteps) with NumPy leaves [B, ...]."""
    step, size = _stepper(tuple(settings.items())), len(record["row"])
    parts = []
    for first in range(0, size, CHUNK):
        index = np.minimum(np.arange(first, first + CHUNK), size - 1)
        chunk = {name: values[index] for name, values in record.items()}
        parts.append(jax.device_get(step(as_state(chunk), jnp.asarray(chunk["actions"], jnp.int32))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:size], *parts)


def differences(settings: dict, record: dict[str, np.ndarray]) -> dict[str, int]:
    """Number of transitions in which we differ from the record, by quantity. Everything is compared exactly."""
    env = Foraging(**settings)
    state, timestep = ours(settings, record)
    reward = record["reward"]
    if env.team_reward == "sum":
        reward = np.broadcast_to(reward.sum(axis=1, keepdims=True), reward.shape)
    cleared = (record["next_food"] == 0).all(axis=1)
    terminal = record["done"] if env.timeout_is_terminal else cleared
    pairs = {
        "row": (state.row, record["next_row"]), "col": (state.col, record["next_col"]),
        "food": (state.food_level, record["next_food"]), "reward": (timestep.reward, reward),
        "view": (timestep.observation.agents_view, record["view"]),
        "mask": (timestep.observation.action_mask, record["mask"]),
        "end": (timestep.step_type == 2, record["done"]),
        "discount": (timestep.discount, np.where(terminal, 0.0, 1.0)[:, None] + np.zeros(env.agents)),
        "step_count": (state.step_count, record["step_count"] + 1),
    }  # fmt: skip
    return {name: int(np.any((a != b).reshape(len(a), -1), axis=1).sum()) for name, (a, b) in pairs.items()}


def count_cases(record: dict[str, np.ndarray]) -> dict[str, int]:
    """How many recorded transitions show each corner case (spec section 10)."""
    row, col, act = record["row"], record["col"], record["actions"]
    after_row, after_col = record["next_row"], record["next_col"]
    level, food = record["level"], record["food_level"]
    off_diagonal = ~np.eye(row.shape[1], dtype=bool)
    down, right = (act == 2).astype(int) - (act == 1), (act == 4).astype(int) - (act == 3)
    moved = (row != after_row) | (col != after_col)
    tried = (down != 0) | (right != 0)
    to_row, to_col = row + down, col + right
    takes = (after_row[:, :, None] == row[:, None]) & (after_col[:, :, None] == col[:, None]) & moved[:, :, None]
    takes = takes & moved[:, None] & off_diagonal
    here = (row[:, :, None] == row[:, None]) & (col[:, :, None] == col[:, None]) & off_diagonal
    stacked_after = (after_row[:, :, None] == after_row[:, None]) & (after_col[:, :, None] == after_col[:, None])
    stacked_after = stacked_after & off_diagonal
    on_food = ((to_row[:, :, None] == record["food_row"][:, None]) & (to_col[:, :, None] == record["food_col"][:, None])
               & (food > 0)[:, None]).any(axis=2) & tried  # fmt: skip
    free = tried & ~on_food
    same_goal = (to_row[:, :, None] == to_row[:, None]) & (to_col[:, :, None] == to_col[:, None])
    rivals = (same_goal & free[:, :, None] & free[:, None]).sum(axis=2)
    into = (to_row[:, :, None] == row[:, None]) & (to_col[:, :, None] == col[:, None]) & free[:, :, None] & off_diagonal
    rotates = takes.astype(int)
    cycles = {}
    for length in (2, 4):
        power = (np.linalg.matrix_power(rotates, length) > 0).astype(int)
        cycles[length] = np.trace(power, axis1=1, axis2=2) > 0
    beside = np.abs(row[:, :, None] - record["food_row"][:, None]) + np.abs(
        col[:, :, None] - record["food_col"][:, None]
    )
    beside = (beside == 1) & (food > 0)[:, None]
    member = beside & (act == 5)[:, :, None]
    size, strength = member.sum(axis=1), (member * level[:, :, None]).sum(axis=1)
    lifted, failed = (size > 0) & (strength >= food), (size > 0) & (strength < food)
    arrives = (np.abs(after_row[:, :, None] - record["food_row"][:, None])
               + np.abs(after_col[:, :, None] - record["food_col"][:, None]) == 1) & moved[:, :, None]  # fmt: skip
    waits = beside & (act != 5)[:, :, None] & ~moved[:, :, None]
    ended = (record["next_food"] == 0).all(axis=1)
    horizon = record["done"] & ~ended
    found = {
        "swap": cycles[2], "four-cycle": cycles[4] & ~cycles[2],
        "follow": takes.any(axis=(1, 2)) & ~cycles[4],
        **{f"{n} contest a cell": (rivals == n).any(axis=1) for n in (2, 3, 4)},
        "walk into NONE": (into & (act == 0)[:, None]).any(axis=(1, 2)),
        "walk into LOAD": (into & (act == 5)[:, None]).any(axis=(1, 2)),
        "walk into a blocked mover": (into & on_food[:, None]).any(axis=(1, 2)),
        "stacking begins": (stacked_after & ~here).any(axis=(1, 2)),
        "stacked, both stay": (here & stacked_after & ~moved[:, :, None]).any(axis=(1, 2)),
        "stacked, one leaves": (here & moved[:, :, None] & ~moved[:, None]).any(axis=(1, 2)),
        "stacked, both to one cell": (here & same_goal & tried[:, :, None]).any(axis=(1, 2)),
        "stacked loaders on one food": ((here.astype(int) @ member.astype(int) > 0) & member).any(axis=(1, 2)),
        "off the board": (free & ((to_row < 0) | (to_col < 0) | (to_row > row.max()) | (to_col > col.max()))).any(axis=1),
        "into food": on_food.any(axis=1),
        "LOAD beside nothing": ((act == 5) & ~beside.any(axis=2)).any(axis=1),
        **{f"loaded by {n}": (lifted & (size == n)).any(axis=1) for n in (1, 2, 3, 4)},
        "strength equal": (lifted & (strength == food)).any(axis=1),
        "strength above": (lifted & (strength > food)).any(axis=1),
        "strength below": failed.any(axis=1),
        "bystander": (waits & lifted[:, None]).any(axis=(1, 2)),
        "arrives too late": (arrives & lifted[:, None]).any(axis=(1, 2)),
        "several fail": (failed & (size > 1)).any(axis=1),
        "two groups fail": failed.sum(axis=1) > 1,
        "one fails, one loads": failed.any(axis=1) & lifted.any(axis=1),
        "cleared": ended & lifted.any(axis=1), "time limit": horizon,
        "fewer foods than asked": (record["food_row"] < 0).any(axis=1),
        "past the end": (food == 0).all(axis=1),
    }  # fmt: skip
    return {name: int(hits.sum()) for name, hits in found.items()}
