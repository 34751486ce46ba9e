"""Coins: drawn boards, growth, the drawn field, conservation, conformance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench.envs.coins import rules
from marl_bench.envs.coins.coins import Coins
from marl_bench.envs.grid.viewer import CELL, WALL

NOOP, FORWARD, BACKWARD, LEFT, RIGHT, TURN_LEFT, TURN_RIGHT = range(7)
NORTH, EAST, SOUTH, WEST = range(4)
ENV = Coins(min_height=4, max_height=6, min_width=4, max_width=6, horizon=50, rate=0.0)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def reset():
    return jax.jit(ENV.reset)


@pytest.fixture(scope="module")
def step():
    return jax.jit(lambda env, state, actions: env.step(state, jnp.asarray(actions)))


def board(reset, drawing, headings=(NORTH, NORTH)):
    """State from a drawing: A, B agents, a, b coins of their colours, # closed, . floor."""
    lines = drawing.split()
    signs = np.array(
        [[lines[r][c] if r < len(lines) and c < len(lines[r]) else "#" for c in range(6)] for r in range(6)]
    )
    kind = np.select([signs == "a", signs == "b"], [1, 2], 0).astype(np.int8)
    state, _ = reset(KEY)
    places = [np.argwhere(signs == letter)[0] for letter in "AB"]
    resources = state.resources.replace(
        kind=jnp.asarray(kind.reshape(-1)), height=jnp.int8(len(lines)), width=jnp.int8(len(lines[0]))
    )
    avatars = state.avatars.replace(
        row=jnp.int8([p[0] for p in places]), col=jnp.int8([p[1] for p in places]), heading=jnp.int8(headings)
    )
    return state.replace(resources=resources, avatars=avatars)


def places(state):
    return [(int(r), int(c)) for r, c in zip(state.avatars.row, state.avatars.col, strict=True)]


# board, actions, reward, own coins, other coins, coins left
EVENTS = {
    "own": (".a.. .A.. ...B ....", [FORWARD, NOOP], [1, 0], 1, 0, 0),
    "theft by 0": (".b.. .A.. ...B ....", [FORWARD, NOOP], [1, -2], 0, 1, 0),
    "theft by 1": (".... .A.. ...a ...B", [NOOP, FORWARD], [-2, 1], 0, 1, 0),
    "both steal": (".b.a .A.B .... ....", [FORWARD, FORWARD], [-1, -1], 0, 2, 0),
    "both own": (".a.b .A.B .... ....", [FORWARD, FORWARD], [1, 1], 2, 0, 0),
    "own and theft": (".a.a .A.B .... ....", [FORWARD, FORWARD], [-1, 1], 1, 1, 0),
    "beside a coin": (".ba. .A.. ...B ....", [NOOP, NOOP], [0, 0], 0, 0, 2),
}


@pytest.mark.parametrize(("drawing", "actions", "reward", "own", "other", "left"), EVENTS.values(), ids=EVENTS)
def test_events_pay(reset, step, drawing, actions, reward, own, other, left):
    state, timestep = step(ENV, board(reset, drawing), actions)
    assert timestep.reward.tolist() == reward
    metrics = timestep.extras["metrics"]
    assert (metrics["cooperations"], metrics["defections"], metrics["coins"]) == (own, other, left)
    assert timestep.extras["cooperations"].sum() == own and timestep.extras["defections"].sum() == other
    assert (state.resources.kind > 0).sum() == left


def test_all_four_numbers_are_parameters(reset, step):
    env = ENV.replace(self_match=2.0, self_mismatch=3.0, other_match=-0.5, other_mismatch=-7.0)
    _, timestep = step(env, board(reset, ".a.a .A.B .... ...."), [FORWARD, FORWARD])
    assert timestep.reward.tolist() == [2 - 7, 3 - 0.5]


def test_a_contested_coin_goes_to_one(reset, step):
    for seed in range(6):
        state = board(reset, ".... .AaB .... ....", (EAST, WEST)).replace(key=jax.random.key(seed))
        following, timestep = step(ENV, state, [FORWARD, FORWARD])
        assert timestep.reward.tolist() in ([1, 0], [-2, 1])
        assert len(set(places(following))) == 2 and (1, 2) in places(following)


@pytest.mark.parametrize("heading", range(4))
def test_the_drawn_border_stops_moves(reset, step, heading):
    ahead = {NORTH: (0, 1), SOUTH: (3, 1), EAST: (1, 4), WEST: (1, 0)}[heading]
    lines = [list(".....") for _ in range(4)]
    lines[ahead[0]][ahead[1]] = "A"
    lines[2][2] = "B"
    state = board(reset, " ".join("".join(line) for line in lines), (heading, NORTH))
    following, _ = step(ENV, state, [FORWARD, NOOP])
    assert places(following)[0] == ahead
    back, _ = step(ENV, state, [BACKWARD, NOOP])
    assert places(back)[0] != ahead


def test_views_show_walls_beyond_the_field_and_colours_as_own(reset):
    state = board(reset, "..b. .A.. ..a. ...B")
    views, names = np.asarray(ENV.views(state)), ENV.channels
    assert views.shape == (2, 11, 11, len(names))
    wall, own, other = (views[..., names.index(name)] for name in ("wall", "coin_own", "coin_other"))
    # Agent 0 at row 1, column 1 looks north from window cell (9, 5).
    assert np.argwhere(other[0]).tolist() == [[8, 6]] and np.argwhere(own[0]).tolist() == [[10, 6]]
    assert not (views[..., names.index("closed")] & ~wall).any()
    free = np.argwhere(wall[0] == 0)
    assert free.min(0).tolist() == [8, 4] and free.max(0).tolist() == [10, 7]
    # Agent 1 at (3, 3): its own coin is three rows up and one column to the left.
    assert np.argwhere(own[1]).tolist() == [[6, 4]] and np.argwhere(other[1]).tolist() == [[8, 4]]


def test_fields_and_starts_are_drawn_uniformly():
    env = Coins()
    state, _ = jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, 1800))
    height, width = np.asarray(state.resources.height), np.asarray(state.resources.width)
    for side in (height, width):
        counts = np.bincount(side, minlength=16)[10:]
        assert counts.sum() == 1800 and ((counts - 300) ** 2 / 300).sum() < 20.5  # chi-square, 5 degrees, p = 0.001
    assert abs(np.corrcoef(height, width)[0, 1]) < 0.1
    row, col = np.asarray(state.avatars.row), np.asarray(state.avatars.col)
    upper = row[:, 0] == 1
    assert abs(upper.mean() - 0.5) < 0.05
    for agent, up in ((0, upper), (1, ~upper)):
        np.testing.assert_array_equal(row[:, agent], np.where(up, 1, height - 2))
        np.testing.assert_array_equal(col[:, agent], np.where(up, width - 2, 1))
    assert not np.asarray(state.resources.kind).any()


def test_coins_appear_at_the_stated_rate_in_fair_colours(reset, step):
    env, state = ENV.replace(rate=0.03), board(reset, ".... .A.. ...B ....")
    keys = jax.random.split(jax.random.key(2), 8000)
    following, _ = jax.jit(jax.vmap(lambda key: env.step(state.replace(key=key), jnp.asarray([NOOP, NOOP]))))(keys)
    kind = np.asarray(following.resources.kind).reshape(-1, 6, 6)
    inside = np.zeros((6, 6), bool)
    inside[:4, :4] = True
    inside[1, 1] = inside[2, 3] = False
    assert not kind[:, ~inside].any()
    trials, grown = 14 * 8000, (kind > 0).sum()
    assert abs(grown - 0.03 * trials) < 4 * np.sqrt(trials * 0.03 * 0.97)
    assert abs((kind == 1).sum() - grown / 2) < 4 * np.sqrt(grown / 4)


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from([0, 1, 2]), min_size=16, max_size=16))
@settings(max_examples=40, deadline=None)
def test_pay_is_conserved(seed, kinds):
    cells = np.random.default_rng(seed).choice(16, 2, replace=False).astype(np.int32)
    kind, own, other = rules.collect(jnp.int8(kinds), jnp.asarray(cells))
    assert (np.asarray(kind) > 0).sum() + int(own.sum()) + int(other.sum()) == np.count_nonzero(kinds)
    reward = rules.pay(own, other, 1.0, 1.0, 0.0, -2.0)
    assert reward.sum() == own.sum() - other.sum()
    swapped = jnp.int8(kinds)
    swapped = jnp.where(swapped > 0, 3 - swapped, 0)
    _, own_, other_ = rules.collect(swapped, jnp.asarray(cells[::-1].copy()))
    assert own_[::-1].tolist() == own.tolist() and other_[::-1].tolist() == other.tolist()


def test_scripted_policies_go_for_their_coins(reset, step):
    known = ENV.scripted_policies()
    state = board(reset, "b... .A.. ...B aa..")
    # Agent 0's own coin is two steps down, the other's two steps up and left; agent 1's own coin is far away.
    assert known["cooperate"](state, None, KEY)[0] == BACKWARD
    assert known["cooperate"](state, None, KEY)[1] in (FORWARD, LEFT)
    near = board(reset, ".b.. .A.. ...B a...")
    assert known["defect"](near, None, KEY)[0] == FORWARD
    assert known["cooperate"](near, None, KEY)[0] in (BACKWARD, LEFT)
    empty = board(reset, ".... .A.. ...B ....")
    assert known["defect"](empty, None, KEY).tolist() == [NOOP, NOOP]


def test_the_world_conforms():
    assert marl_bench.check_environment(marl_bench.make("coins", horizon=20), num_steps=20) == []


def test_a_fixed_size():
    env = marl_bench.make("coins_16x11")
    drawn = jax.random.bits(KEY, (env.num_words,), jnp.uint32)
    resources = env.begin(drawn)
    assert (int(resources.height), int(resources.width)) == (16, 11) and env.field_mask(resources).all()


def test_melting_pots_ending():
    env = marl_bench.make("coins_mp")
    assert env.horizon == 300 and env.end == "mp" and env.end_chance == 0.05 and env.fixed_horizon is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"players": 3}, "players=3"),
        ({"min_height": 12, "max_height": 11}, "max_height=11"),
        ({"min_width": 3}, "min_width=3"),
        ({"rate": 1.5}, "rate=1.5"),
        ({"spawns": "anywhere"}, "spawns='anywhere'"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Coins(**fields)


def test_picture_shows_field_and_coins(reset):
    picture = ENV.render(board(reset, "..b. .A.. ..a. ...B"))
    assert picture.shape == (8 * CELL, 8 * CELL, 3) and picture.dtype == np.uint8

    def centre(row, column):
        return tuple(picture[CELL * (row + 1) + CELL // 2, CELL * (column + 1) + CELL // 2])

    assert centre(2, 2) == centre(1, 1) != centre(0, 2) == centre(3, 3)
    assert centre(4, 1) == centre(1, 4) == WALL
