"""`marl-bench bench envs`: both sides run what they claim to run; requests are checked; the record says what was measured."""

from __future__ import annotations

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench.errors import RunError, UsageError
from marl_bench.experiments import bench_contests, bench_envs, bench_rollouts
from marl_bench.experiments.bench_envs import Contest, Figure
from marl_bench.vector import VectorEnvironment


def game(**fields):
    return marl_bench.make("public_goods", players=3, horizon=5, **fields)


# --- our roll-out ------------------------------------------------------------------------------------------


def test_our_rollout_is_the_environment_stepped_by_hand():
    env, batch, length = game(), 4, 12
    program = bench_rollouts.compile_rollout(
        bench_rollouts.our_rollout(env, batch, length, "cond"), length, jax.random.key(3)
    )
    vector = VectorEnvironment(env, batch, "cond")
    state, timestep = vector.reset(jax.random.split(jax.random.key(3))[0])
    actions = np.asarray(program.actions)
    rewards, ends = 0.0, 0
    for _ in range(2):  # the same actions in every call
        program.run()
        for joint in actions:
            state, timestep = vector.step(state, jnp.asarray(joint))
            rewards, ends = rewards + np.asarray(timestep.reward), ends + np.asarray(timestep.last())
    _, observation, (reward, discount, last) = program.carry
    np.testing.assert_allclose(reward, rewards, rtol=1e-5)
    np.testing.assert_array_equal(last, ends)
    np.testing.assert_array_equal(observation.agents_view, timestep.observation.agents_view)
    assert last.tolist() == [4] * batch and discount.shape == (batch, 3)
    assert program.steps == batch * length and actions.shape == (length, batch, 3)
    assert program.compile_seconds > 0 and program.start_seconds > 0


def test_a_pool_is_drawn_anew_after_each_rollout():
    rollout = bench_rollouts.our_rollout(game(), 2, 4, "pool")
    carry = rollout.start(jax.random.key(0))
    renewed = rollout.renew(carry)
    keys = [np.asarray(jax.random.key_data(c[0].key)) for c in (carry, renewed)]
    assert (keys[0] != keys[1]).any() and carry[0].pool is not None
    np.testing.assert_array_equal(carry[2][0], renewed[2][0])


def test_actions_cover_the_action_space():
    drawn = np.asarray(bench_rollouts.uniform_actions(game(), jax.random.key(0), (50, 7)))
    assert drawn.shape == (50, 7, 3) and set(np.unique(drawn)) == {0, 1}
    assert abs(drawn.mean() - 0.5) < 0.05


def test_bytes_count_keys_and_arrays():
    assert bench_rollouts.size_in_bytes((jax.random.key(0), jnp.zeros((2, 3), jnp.int8), jnp.zeros(()))) == 8 + 6 + 4


# --- Jumanji's ---------------------------------------------------------------------------------------------


def test_both_ways_to_restart_jumanji_are_the_same_game():
    import jumanji

    def make():
        from jumanji.environments.routing.lbf.generator import RandomGenerator

        generator = RandomGenerator(grid_size=5, num_agents=2, num_food=1, fov=5, force_coop=False)
        return jumanji.make("LevelBasedForaging-v0", generator=generator, time_limit=6)

    carries = []
    for rollout in bench_rollouts.jumanji_rollouts(make, 3).values():
        program = bench_rollouts.compile_rollout(rollout, 16, jax.random.key(1))
        program.run()
        carries.append(program.carry)
    select, serial = carries
    jax.tree.map(np.testing.assert_array_equal, select[1], serial[1])
    jax.tree.map(np.testing.assert_array_equal, select[2], serial[2])
    # 16 steps, episodes of at most 6: two or more ends each.
    assert (np.asarray(select[2][2]) >= 2).all()


# --- comparison --------------------------------------------------------------------------------------------


def against_itself(batch):
    rollout = bench_rollouts.our_rollout(game(), batch, 16)
    return {"one": rollout, "other": rollout}


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    contests = (
        Contest("itself", "jaxmarl", game, against_itself, crowd=lambda agents: game().replace(players=agents)),
        Contest("stated", "socialjax", game, Figure(10.0, 20.0, "git 0, a machine")),
    )
    out = tmp_path_factory.mktemp("bench") / "envs.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_contests, "CONTESTS", contests)
        patch.setattr(bench_envs, "require", lambda contest: None)
        patch.setattr(bench_envs, "WINDOW_SECONDS", 0.0)
        patch.setattr(bench_envs.compare, "__kwdefaults__", {"windows": 3, "seconds": 0.0, "bandwidth": 1e9})
        assert bench_envs.main("jaxmarl,socialjax", None, [2, 3], out) == 0
    return json.loads(out.read_text()), out.with_suffix(".md").read_text()


def test_record_holds_every_pair_of_windows(record):
    rows = record[0]["rows"]
    assert [(row["name"], row["batch"]) for row in rows] == [
        (name, batch) for name in ("itself", "stated") for batch in (2, 3)
    ]
    for row in rows:
        assert len(row["rates"]) == len(row["ratios"]) == 3
        peer = np.broadcast_to(row["peer_rates"], 3)
        np.testing.assert_allclose(row["ratios"], np.array(row["rates"]) / peer)
        assert row["compile_seconds"] > 0 and row["bytes_per_step"] > 0
    assert rows[0]["restart"] == max(rows[0]["restart_trials"], key=rows[0]["restart_trials"].get)
    assert rows[2]["stated"]["source"] == "git 0, a machine" and rows[2]["peer_rates"] == [20.0]


def test_compile_time_by_number_of_agents_is_shown(record):
    seconds = record[0]["crowds"][0]["compile_seconds"]
    assert set(seconds) == {"2", "64"} and min(seconds.values()) > 0


def test_page_names_the_contests_and_what_was_not_measured(record):
    page = record[1]
    assert "| itself | 2 |" in page and "socialjax: git 0, a machine" in page
    assert page.startswith("`marl-bench bench envs --against jaxmarl,socialjax --batch 2,3`")


def test_the_compile_cache_is_on_again(record):
    assert jax.config.jax_enable_compilation_cache


def test_bandwidth_is_that_of_some_memory():
    assert 1e8 < bench_envs.copy_bandwidth(2**20) < 1e14


def test_length_of_a_rollout_bounds_the_actions_drawn():
    assert [bench_envs.roll_out_length(b) for b in (1, 1024, 2**16, 2**20)] == [128, 128, 64, 16]


# --- requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("against", "only", "batches", "message"),
    [
        ("jumanji,jaxmral", None, None, r"--against jaxmral: unknown.*jaxmarl"),
        ("jaxmarl", "coingame", None, r"--only coingame: no such contest.*coin_game"),
        ("jumanji", "coin_game", None, r"none of these is against jumanji"),
        ("jaxmarl", "coin_game", [0], r"--batch 0: must be positive"),
    ],
)
def test_wrong_requests_are_named(against, only, batches, message):
    with pytest.raises(UsageError, match=message):
        bench_envs.main(against, only, batches)


def test_a_peer_that_is_missing_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'marl-bench\[jaxmarl\]'"):
        bench_envs.main("jaxmarl", "coin_game")


def test_an_unwritable_file_is_named(tmp_path):
    with pytest.raises(RunError, match="cannot be written"):
        bench_envs._write(tmp_path / "missing" / "out.json", "")


def first_actions(rollout, key):
    return jax.tree.map(lambda leaf: leaf[0], rollout.draw(key, 2))


QUICK = ("coin_game", "commons_harvest")


@pytest.mark.parametrize(
    "contest",
    [
        pytest.param(contest, id=contest.name, marks=() if contest.name in QUICK else pytest.mark.slow)
        for contest in bench_contests.CONTESTS
    ],
)
def test_both_sides_of_a_contest_can_be_traced_and_have_the_same_agents(contest):
    """Traced only: compiling them all is what the benchmark does."""
    if contest.peer == "jaxmarl":
        pytest.importorskip("jaxmarl")
    batch = 5
    sides = {} if isinstance(contest.theirs, Figure) else contest.theirs(batch)
    sides = {"ours": bench_rollouts.our_rollout(contest.ours(), batch, 4), **sides}
    rewards = {}
    for name, rollout in sides.items():
        key = jax.eval_shape(lambda: jax.random.key(0))
        carry = jax.eval_shape(rollout.start, key)
        actions = jax.eval_shape(functools.partial(first_actions, rollout), key)
        following = jax.eval_shape(rollout.step, carry, actions)
        assert jax.tree.structure(carry) == jax.tree.structure(following)
        reward = following[2][0]
        rewards[name] = sum(leaf.size for leaf in jax.tree.leaves(reward))
    assert set(rewards.values()) == {batch * contest.ours().num_agents}


def test_contests_have_names_of_their_own_and_make_our_worlds():
    contests = bench_contests.CONTESTS
    assert len({contest.name for contest in contests}) == len(contests)
    for contest in contests:
        assert contest.peer in bench_envs.PEERS
        assert contest.ours().num_agents >= 1
        if contest.crowd is not None:
            assert [contest.crowd(agents).num_agents for agents in bench_envs.CROWDS] == list(bench_envs.CROWDS)
