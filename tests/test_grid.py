"""The grid engine: drawn boards for moves, contests, beams, timers and windows; fair draws; a reference of the resolver."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench.environment import field
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import beams as bm
from marl_bench.envs.grid import boards, routes, sites, view
from marl_bench.envs.grid.geometry import HEADINGS, PAD, Window, block, footprint, terrain
from marl_bench.envs.grid.world import GridWorld, WorldState

KEY = jax.random.key(0)
NORTH, EAST, SOUTH, WEST = range(4)
ZAP = 7
ARROWS = "^>v<"


@functools.lru_cache
def open_map(height, width, walls=(), torus=False):
    return terrain(height, width, walls, torus=torus)


@struct.dataclass
class Field(GridWorld):
    """Nothing but avatars; a zap removes for 5 steps."""

    players: int = field(3, static=True)
    size: tuple = field((7, 7), static=True)
    walls: tuple = field((), static=True)
    torus: bool = field(False, static=True)
    cooldown: int = field(2)

    @property
    def terrain(self):
        return open_map(*self.size, self.walls, self.torus)

    @property
    def beams(self):
        return (bm.Beam("zap", 3, 1, self.cooldown),)

    def strike(self, frame, beam, shot):
        return frame.replace(avatars=av.remove(frame.avatars, shot.hits.any(axis=0), 5))


def board(drawing):
    """Field and state from a drawing: `^>v<` avatars in reading order, `#` walls, `.` floor."""
    rows = [line.split() for line in drawing.strip().splitlines()]
    found = [(r, c, ARROWS.index(s)) for r, row in enumerate(rows) for c, s in enumerate(row) if s in ARROWS]
    walls = tuple((r, c) for r, row in enumerate(rows) for c, s in enumerate(row) if s == "#")
    env = Field(players=len(found), size=(len(rows), len(rows[0])), walls=walls)
    return env, state_of(env, *zip(*found, strict=True))


def state_of(env, row, col, heading, count=0):
    n = len(row)
    small = functools.partial(jnp.asarray, dtype=jnp.int8)
    zeros = jnp.zeros(n, jnp.int8)
    avatars = av.Avatars(
        small(row), small(col), small(heading), jnp.zeros(n, jnp.int16), zeros, jnp.zeros((n, 1), jnp.int8)
    )
    lit = jnp.zeros((1, env.size[0], -(-env.size[1] // 32)), jnp.uint32)
    return WorldState(avatars, (), lit, KEY, jnp.int32(count))


step = jax.jit(lambda env, state, actions: env.step(state, actions))


def where(state):
    return [(int(r), int(c)) for r, c in zip(state.avatars.row, state.avatars.col, strict=True)]


# --- moves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("heading", range(4))
@pytest.mark.parametrize(("action", "turn"), [(av.FORWARD, 0), (av.STEP_RIGHT, 1), (av.BACKWARD, 2), (av.STEP_LEFT, 3)])
def test_moves_are_relative_to_the_heading(heading, action, turn):
    row, col = HEADINGS[(heading + turn) % 4]
    env = Field(players=1)
    free, _ = step(env, state_of(env, [3], [3], [heading]), jnp.asarray([action]))
    assert where(free) == [(3 + row, 3 + col)] and int(free.avatars.heading[0]) == heading
    walled = Field(players=1, walls=((3 + row, 3 + col),))
    against_wall, _ = step(walled, state_of(walled, [3], [3], [heading]), jnp.asarray([action]))
    assert where(against_wall) == [(3, 3)]
    two = Field(players=2)
    start = state_of(two, [3, 3 + row], [3, 3 + col], [heading, heading])
    against_avatar, _ = step(two, start, jnp.asarray([action, av.NOOP]))
    assert where(against_avatar)[0] == (3, 3)


def test_the_border_is_a_wall_and_a_torus_has_none():
    env = Field(players=1)
    assert where(step(env, state_of(env, [0], [6], [EAST]), jnp.asarray([av.FORWARD]))[0]) == [(0, 6)]
    env = Field(players=1, torus=True)
    assert where(step(env, state_of(env, [0], [6], [EAST]), jnp.asarray([av.FORWARD]))[0]) == [(0, 0)]
    assert where(step(env, state_of(env, [0], [6], [NORTH]), jnp.asarray([av.FORWARD]))[0]) == [(6, 6)]


@pytest.mark.parametrize(("action", "heading"), [(av.TURN_LEFT, WEST), (av.TURN_RIGHT, EAST), (-3, NORTH), (99, NORTH)])
def test_turns_and_clipping(action, heading):
    env = Field(players=1)
    after, _ = step(env, state_of(env, [3], [3], [NORTH]), jnp.asarray([action]))
    assert where(after) == [(3, 3)] and int(after.avatars.heading[0]) == heading
    assert int(after.avatars.waits[0, 0]) == (2 if action == 99 else 0)  # 99 is clipped to the last action, zap


# here, there -> who moves, by resolver; cells are numbers of a line or a ring, everybody's priority falls with its index.
CONTESTS = {
    "nobody in the way": ([0, 5], [1, 5], {"train": [1, 0], "sequential": [1, 0], "strict": [1, 0]}),
    "two for one cell": ([0, 2], [1, 1], {"train": [1, 0], "sequential": [1, 0], "strict": [1, 0]}),
    "three for one cell": ([0, 2, 9], [1, 1, 1], {"train": [1, 0, 0], "sequential": [1, 0, 0], "strict": [1, 0, 0]}),
    "a stayer keeps its cell": ([0, 1], [1, 1], {"train": [0, 0], "sequential": [0, 0], "strict": [0, 0]}),
    "swap": ([0, 1], [1, 0], {"train": [0, 0], "sequential": [0, 0], "strict": [0, 0]}),
    "chain, leader first": (
        [3, 2, 1, 0], [4, 3, 2, 1],
        {"train": [1, 1, 1, 1], "sequential": [1, 1, 1, 1], "strict": [1, 0, 0, 0]},
    ),
    "chain, leader last": (
        [0, 1, 2, 3], [1, 2, 3, 4],
        {"train": [1, 1, 1, 1], "sequential": [0, 0, 0, 1], "strict": [0, 0, 0, 1]},
    ),
    "rotation of three": ([0, 1, 2], [1, 2, 0], {"train": [1, 1, 1], "sequential": [0, 0, 0], "strict": [0, 0, 0]}),
    "rotation of four": (
        [0, 1, 2, 3], [1, 2, 3, 0],
        {"train": [1, 1, 1, 1], "sequential": [0, 0, 0, 0], "strict": [0, 0, 0, 0]},
    ),
    "follow a blocked leader": (
        [1, 0, 2], [2, 1, 2], {"train": [0, 0, 0], "sequential": [0, 0, 0], "strict": [0, 0, 0]},
    ),
    "follow a loser": ([9, 1, 0], [2, 2, 1], {"train": [1, 0, 0], "sequential": [1, 0, 0], "strict": [1, 0, 0]}),
    "follow one of a swap": (
        [0, 1, 5], [1, 0, 0], {"train": [0, 0, 0], "sequential": [0, 0, 0], "strict": [0, 0, 0]},
    ),
}  # fmt: skip


resolve = jax.jit(av.resolve, static_argnums=3)


@pytest.mark.parametrize("resolver", av.RESOLVERS)
@pytest.mark.parametrize("name", CONTESTS)
def test_contests(name, resolver):
    here, there, expected = CONTESTS[name]
    words = jnp.asarray(np.arange(len(here), 0, -1), jnp.uint32)
    moved = resolve(jnp.asarray(here), jnp.asarray(there), words, resolver)
    np.testing.assert_array_equal(moved, np.asarray(expected[resolver], bool))


def reference(here, there, priority, resolver):
    """The rules of the spec, section 1.3, read off literally: agent by agent, N rounds."""
    n = len(here)
    if resolver == "sequential":
        now = list(here)
        for i in sorted(range(n), key=lambda i: -priority[i]):
            if there[i] not in now:
                now[i] = there[i]
        return [now[i] != here[i] for i in range(n)]
    if resolver == "strict":
        return [
            there[i] not in here
            and all(
                priority[i] > priority[j] for j in range(n) if j != i and there[j] == there[i] and there[j] != here[j]
            )
            for i in range(n)
        ]
    moving = [w != o for w, o in zip(there, here, strict=True)]
    for _ in range(n):
        claim = [there[i] if moving[i] else here[i] for i in range(n)]
        stopped = set()
        for i in range(n):
            for j in range(n):
                if i != j and moving[i] and claim[i] == claim[j] and (not moving[j] or priority[j] > priority[i]):
                    stopped.add(i)
                if i != j and moving[i] and moving[j] and there[i] == here[j] and there[j] == here[i]:
                    stopped.add(i)
        moving = [moving[i] and i not in stopped for i in range(n)]
    return moving


@pytest.mark.parametrize("resolver", av.RESOLVERS)
def test_resolvers_equal_the_rules_and_keep_cells_apart(resolver):
    """16 avatars on 5 x 5 cells: 6,250 random steps (100,000 moves), of which 500 against the literal rules."""
    rng = np.random.default_rng(1)
    here = np.stack([rng.permutation(25)[:16] for _ in range(6250)])
    steps = np.array([0, 1, -1, 5, -5])[rng.integers(0, 5, here.shape)]
    there = here + steps
    crossed = (np.abs(steps) == 1) & (there // 5 != here // 5)
    there = np.where(crossed | (there < 0) | (there > 24), here, there)
    words = rng.integers(0, 2**32, here.shape, dtype=np.uint32)
    moved = np.asarray(jax.jit(jax.vmap(lambda *given: av.resolve(*given, resolver)))(here, there, words))
    after = np.sort(np.where(moved, there, here), axis=1)
    assert (after[:, 1:] != after[:, :-1]).all() and 0.05 < moved.mean() < 0.8
    for case in range(500):
        expected = reference(here[case].tolist(), there[case].tolist(), words[case].tolist(), resolver)
        np.testing.assert_array_equal(moved[case], expected)


@pytest.mark.parametrize("resolver", av.RESOLVERS)
def test_winners_of_a_contest_are_uniform(resolver):
    """Three avatars step to one cell 6,000 times; the chi-square of the winners has 2 degrees of freedom."""
    env = Field(players=3, resolver=resolver)
    start = state_of(env, [3, 2, 4], [2, 3, 3], [EAST, SOUTH, NORTH])

    def winner(key):
        after, _ = env.step(start.replace(key=key), jnp.full(3, av.FORWARD))
        return (after.avatars.row == 3) & (after.avatars.col == 3)

    won = np.asarray(jax.jit(jax.vmap(winner))(jax.random.split(KEY, 6000)))
    assert (won.sum(axis=1) == 1).all()
    assert ((won.sum(axis=0) - 2000) ** 2 / 2000).sum() < 16  # p = 0.0003


# --- chance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 31, 32, 33, 147])
def test_choice_is_uniform_among_candidates(size):
    rng = np.random.default_rng(size)
    candidates = rng.random(size) < 0.5
    candidates[size // 2] = True
    words = jnp.asarray(rng.integers(0, 2**32, 20000, dtype=np.uint32))
    chosen = np.asarray(jax.jit(jax.vmap(lambda word: sites.choose(jnp.asarray(candidates), word)))(words))
    assert (chosen.sum(axis=1) == 1).all() and not chosen[:, ~candidates].any()
    expected = 20000 / candidates.sum()
    chi = ((chosen.sum(axis=0)[candidates] - expected) ** 2 / expected).sum()
    freedom = candidates.sum() - 1
    assert chi <= freedom + 5 * np.sqrt(2 * freedom) + 1e-9
    assert not sites.choose(jnp.zeros(size, bool), words[0]).any()


def test_starts_are_distinct_and_uniform():
    env = Field(players=4, size=(3, 4), walls=((1, 1),))
    state, _ = jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, 4000))
    flat = np.asarray(state.avatars.row * 4 + state.avatars.col)
    assert all(len(set(row)) == 4 for row in flat.tolist()) and (flat != 5).all()
    counts = np.bincount(flat.reshape(-1), minlength=12)[np.arange(12) != 5]
    expected = 16000 / 11
    assert ((counts - expected) ** 2 / expected).sum() < 33  # 10 degrees of freedom, p = 0.0003
    headings = np.bincount(np.asarray(state.avatars.heading).reshape(-1), minlength=4)
    assert ((headings - 4000) ** 2 / 4000).sum() < 19


# --- beams -----------------------------------------------------------------------------------------


def test_sizes_of_beams():
    assert [len(footprint(*shape).forward) for shape in ((3, 1), (2, 1), (3, 0), (5, 0), (4, 1))] == [9, 6, 3, 5, 12]
    with pytest.raises(ValueError, match="beam of length 0"):
        footprint(0, 0)


def lit(state, width):
    cells = np.asarray(boards.plane(state.lit[0], width))
    return "\n".join(" ".join("*" if cell else "." for cell in row) for row in cells)


BEAMS = {
    "north": (". . . . .\n. . . . .\n. . . . .\n. . ^ . .", ". . * . .\n. * * * .\n. * * * .\n. * . * ."),
    "east": (". . . . .\n> . . . .\n. . . . .", "* * * . .\n. * * * .\n* * * . ."),
    "south": (". v .\n. . .\n. . .\n. . .", "* . *\n* * *\n* * *\n. * ."),
    "west": (". . . .\n. . . <\n. . . .", ". * * *\n* * * .\n. * * *"),
    "corner": ("< . .\n. . .", ". . .\n* . ."),
    "wall in the middle": (". . # . .\n. . # . .\n. . . . .\n. . ^ . .", ". . . . .\n. * . * .\n. * * * .\n. * . * ."),
    "wall on the left, beside": (". . .\n. . .\n. . .\n# ^ .", ". * .\n. * *\n. * *\n. . *"),
    "wall on the left, ahead": (". . .\n. . .\n# . .\n. ^ .", ". * .\n. * *\n. * *\n* . *"),
    "wall on the right, end": (". . .\n. . #\n. . .\n. ^ .", ". * .\n* * .\n* * *\n* . *"),
    "avatar in the middle": (". . .\n. . .\n. v .\n. ^ .", ". . .\n* . *\n* * *\n* . *"),
    "avatar on the right": (". . .\n. . .\n. . v\n. ^ .", ". * .\n* * .\n* * *\n* . *"),
}


@pytest.mark.parametrize("name", BEAMS)
def test_beam_cells(name):
    """The last avatar of the drawing zaps; blocking avatars are lit, walls are not shown as lit floor or hit."""
    drawing, expected = BEAMS[name]
    env, state = board(drawing)
    actions = jnp.full(env.players, av.NOOP).at[-1].set(ZAP)
    after, timestep = step(env, state, actions)
    shown = lit(after, env.size[1]).split("\n")
    walls = np.asarray(env.terrain.wall)
    seen = "\n".join(
        " ".join("." if walls[r, c] else cell for c, cell in enumerate(row.split())) for r, row in enumerate(shown)
    )
    assert seen == expected
    hit = [i for i in range(env.players) if timestep.extras["hits"][i]]
    assert hit == ([0] if "avatar" in name else [])


def test_an_outer_column_does_not_pass_a_blocked_inner_one():
    env = Field(players=1, walls=((3, 2),))
    state = state_of(env, [3], [3], [NORTH])
    beam = bm.Beam("wide", 3, 2, 0)
    shot = bm.shoot(
        jnp.asarray([True]), bm.aim(state.avatars, beam, env.terrain), None, state.avatars, beam, env.terrain
    )
    cells = np.asarray(boards.plane(shot.board, 7))
    assert cells[:, 1].sum() == 0 and cells[:4, 4].sum() == 3 and cells[:4, 5].sum() == 2
    assert bool(bm.reached(shot, np.array([3 * 7 + 5, 3 * 7 + 1]), 7)[0]) and not bm.reached(shot, np.array([22]), 7)[0]
    np.testing.assert_array_equal(bm.struck(shot, np.array([3 * 7 + 5, 3 * 7 + 1])), [[True, False]])


def test_simultaneous_hits_remove_both_and_an_avatar_protects_the_next():
    env, state = board("> . <")
    after, timestep = step(env, state, jnp.asarray([ZAP, ZAP]))
    assert not after.avatars.alive.any() and timestep.extras["hits"].tolist() == [1, 1]
    env, state = board("> < <")
    after, timestep = step(env, state, jnp.asarray([ZAP, 0, 0]))
    assert timestep.extras["hits"].tolist() == [0, 1, 0] and timestep.extras["shots"].tolist() == [1, 0, 0]


def test_beams_start_where_the_moves_ended():
    env, state = board("^ . .\n. . .\n. . ^")
    after, timestep = step(env, state, jnp.asarray([ZAP, av.STEP_LEFT]))
    assert where(after)[1] == (2, 1) and not timestep.extras["hits"].any()
    env, state = board(". . ^\n. . .\n. . .\n. ^ .")
    _, timestep = step(env, state, jnp.asarray([av.STEP_LEFT, ZAP]))
    assert timestep.extras["hits"].tolist() == [1, 0]


# --- timers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cooldown", [0, 1, 2, 10])
def test_the_next_shot_is_possible_after_the_cooldown(cooldown):
    env = Field(players=1, cooldown=cooldown, mask_cooldown=True)
    state, shots = state_of(env, [3], [3], [NORTH]), []
    for _ in range(2 * cooldown + 3):
        ready = bool(env._mask(state.avatars)[0, ZAP])
        state, timestep = step(env, state, jnp.asarray([ZAP]))
        shots.append(int(timestep.extras["shots"][0]))
        assert ready == bool(shots[-1])
    assert [i for i, shot in enumerate(shots) if shot] == list(range(0, len(shots), cooldown + 1))


def test_a_hit_avatar_loses_its_next_actions_and_reappears():
    env, state = board("> . <")
    state, timestep = step(env, state, jnp.asarray([ZAP, av.NOOP]))
    for lost in range(5):
        assert not timestep.extras["alive"][1], lost
        assert timestep.observation.action_mask[1].tolist() == [True] + [False] * 7
        assert not timestep.observation.agents_view[1].any()
        state, timestep = step(env, state, jnp.asarray([av.NOOP, ZAP]))
        assert timestep.extras["shots"][1] == 0
    assert timestep.extras["alive"].all() and timestep.observation.action_mask.all()
    assert len(set(where(state))) == 2


def test_frozen_avatars_stay_in_the_way_and_avatars_gone_for_good_do_not_return():
    env, state = board("> > .")
    frozen = state.replace(avatars=av.freeze(state.avatars, jnp.asarray([False, True]), 2))
    for column in (0, 0, 1):
        frozen, _ = step(env, frozen, jnp.full(2, av.FORWARD))
        assert where(frozen)[0] == (0, column)
    gone = state.replace(avatars=av.remove(state.avatars, jnp.asarray([False, True]), av.FOREVER))
    gone, _ = step(env, gone, jnp.full(2, av.FORWARD))
    assert where(gone)[0] == (0, 1) and int(gone.avatars.away[1]) == av.FOREVER


# --- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("heading", range(4))
@pytest.mark.parametrize(
    ("ahead", "right", "cell"), [(1, 0, (8, 5)), (4, 0, (5, 5)), (0, -1, (9, 4)), (-1, 2, (10, 7))]
)
def test_what_lies_ahead_is_up_whatever_the_heading(heading, ahead, right, cell):
    env = Field(players=2, size=(19, 21))
    (fr, fc), (rr, rc) = HEADINGS[heading], HEADINGS[(heading + 1) % 4]
    at = (9 + ahead * fr + right * rr, 10 + ahead * fc + right * rc)
    state = state_of(env, [9, at[0]], [10, at[1]], [heading, (heading + 1) % 4])
    seen = np.asarray(env.views(state))[0]
    others = seen[..., env.channels.index("others")]
    assert np.argwhere(others).tolist() == [list(cell)]
    assert seen[cell][env.channels.index("heading_right")] == 1
    assert np.argwhere(seen[..., env.channels.index("self")]).tolist() == [[9, 5]]
    assert seen[9, 5][env.channels.index("heading_same")] == 1


def test_walls_beams_and_identities_are_seen():
    env = Field(players=2, size=(3, 3), walls=((0, 1),), show_ids=True)
    _, timestep = step(env, state_of(env, [2, 2], [1, 2], [NORTH, NORTH]), jnp.asarray([ZAP, av.NOOP]))
    seen = dict(zip(env.channels, np.moveaxis(np.asarray(timestep.observation.agents_view)[0], -1, 0), strict=True))
    inside = ~seen["wall"].astype(bool)
    assert np.argwhere(inside).tolist() == [[7, 4], [7, 6], [8, 4], [8, 5], [8, 6], [9, 4], [9, 5], [9, 6]]
    assert np.argwhere(seen["agent_0"]).tolist() == [[9, 5]] and not seen["agent_1"].any()  # 1 was hit
    assert seen["zap"][8, 5] and seen["zap"][9, 4] and not seen["zap"][9, 5]
    assert seen["ready_zap"].sum() == 0


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_painting_equals_scattering(data):
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 70))
    count = data.draw(st.integers(1, 5))
    cells = data.draw(
        st.lists(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)), min_size=count, max_size=count)
    )
    bits = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    expected = np.zeros((2, height, width), int)
    for (row, col), code in zip(cells, bits, strict=True):
        expected[:, row, col] |= [code & 1, code >> 1]
    row, col = (np.asarray(part, np.int8) for part in zip(*cells, strict=True))
    painted = boards.paint(jnp.asarray(row), jnp.asarray(col), jnp.asarray(bits), (height, width), 2)
    np.testing.assert_array_equal(boards.plane(painted, width), expected)


def test_spread_and_channels():
    flat = np.array([0, 4, 7])
    np.testing.assert_array_equal(sites.spread(jnp.asarray([1, 2, 3]), flat, 2, 4), [[1, 0, 0, 0], [2, 0, 0, 3]])
    np.testing.assert_array_equal(view.channels(jnp.asarray([5, 8], jnp.uint32), 4), [[1, 0, 1, 0], [0, 0, 0, 1]])
    assert Window(3, 1, 2, 2).shape == (5, 5) and Window(3, 1, 2, 2).own == 17


# --- ends, routes, bad input -----------------------------------------------------------------------


WORLDS = ["cleanup", "coins", "commons_harvest", "coop_mining", "gift", "in_the_matrix", "mushrooms", "territory"]


@pytest.mark.parametrize("name", WORLDS)
def test_the_global_state_tells_every_part_of_the_state(name):
    env = marl_bench.make(name)
    shapes, _ = jax.eval_shape(env.reset, jax.eval_shape(lambda: KEY))
    avatars = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.avatars)
    resources = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes.resources)
    state = WorldState(avatars, resources, np.zeros(shapes.lit.shape, np.uint32), KEY, np.int32(0))
    leaves, tree = jax.tree.flatten(state)
    changed = [index for index, leaf in enumerate(leaves) if leaf is not KEY and leaf.size]
    copies = [jnp.stack([leaf] * (1 + len(changed))) for leaf in leaves]
    # Copy 0 is as it was; in each of the others one leaf differs, in its last entry.
    for copy, index in enumerate(changed, 1):
        entries = np.array(copies[index]).reshape(1 + len(changed), -1)
        entries[copy, -1] = ~entries[copy, -1] if entries.dtype == bool else entries[copy, -1] + 1
        copies[index] = entries.reshape(copies[index].shape)
    found = np.asarray(jax.jit(jax.vmap(env.global_state))(tree.unflatten(copies)))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    assert [paths[index] for copy, index in enumerate(changed, 1) if (found[copy] == found[0]).all()] == []


def test_the_last_step_pays_and_shows_and_is_a_truncation():
    env = Field(players=2, horizon=3)
    _, timestep = step(env, state_of(env, [3, 3], [3, 5], [EAST, WEST], count=2), jnp.asarray([ZAP, av.NOOP]))
    assert timestep.last() and (timestep.discount == 1).all() and timestep.extras["hits"][1] == 1
    _, timestep = step(env, state_of(env, [3, 3], [3, 5], [EAST, WEST], count=1), jnp.asarray([0, 0]))
    assert timestep.mid()


def test_random_ends():
    env = Field(players=1, end="mp", horizon=300, end_chance=0.25)
    assert env.fixed_horizon is None

    def ends(key, count):
        state = state_of(env, [3], [3], [NORTH]).replace(key=key, step_count=count - 1)
        return env.step(state, jnp.zeros(1, jnp.int32))[1].last()

    over = jax.jit(jax.vmap(jax.vmap(ends, (0, None)), (None, 0)))
    share = np.asarray(over(jax.random.split(KEY, 2000), jnp.asarray([200, 299, 300, 350, 400, 5000]))).mean(axis=1)
    assert share[[0, 1, 3]].tolist() == [0, 0, 0] and share[5] == 1
    np.testing.assert_allclose(share[[2, 4]], 0.25, atol=4 * np.sqrt(0.25 * 0.75 / 2000))


def test_routes_lead_round_walls():
    place = terrain(3, 3, walls=block(1, (0, 1)))
    away = routes.distances(place, (0,))
    assert away[(2 + PAD) * place.stride + PAD, 0] == 6 and away[(1 + PAD) * place.stride + PAD, 0] >= routes.FAR
    env = Field(players=1, size=(3, 3), walls=((1, 0), (1, 1)))
    state = state_of(env, [2], [0], [SOUTH])
    for _ in range(6):
        state, _ = step(env, state, routes.walk(state.avatars, place, (0,), jnp.zeros(1, jnp.int32), KEY))
    assert where(state) == [(0, 0)]
    assert routes.walk(state.avatars, place, (0,), jnp.zeros(1, jnp.int32), KEY).tolist() == [av.NOOP]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"players": 50}, "players=50: there are 49 spawn cells"),
        ({"players": 0}, "players=0"),
        ({"resolver": "strikt"}, "did you mean 'strict'"),
        ({"end": "never"}, "end='never'"),
        ({"end_chance": 1.5}, "end_chance=1.5"),
        ({"spawns": "nowhere"}, "spawns='nowhere'"),
        ({"horizon": 0}, "horizon=0"),
    ],
)
def test_bad_input(fields, message):
    with pytest.raises(ValueError, match=message):
        Field(**fields)


def test_bad_maps():
    with pytest.raises(ValueError, match="outside the map of 2 x 2"):
        terrain(2, 2, walls=[(2, 0)])
    with pytest.raises(ValueError, match="spawn cell lies in a wall"):
        terrain(2, 2, walls=[(0, 0)], spawns=[(0, 0)])


def test_conformance():
    assert marl_bench.check_environment(Field(players=2, horizon=20, torus=True, resolver="sequential")) == []
