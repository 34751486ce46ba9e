"""Schelling diagnostics: closed forms of known games, verdicts, crossings, files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench.envs.social.schelling import play_compositions
from marl_bench.errors import RunError, UsageError
from marl_bench.experiments import schelling
from marl_bench.report.schelling import DILEMMA, NO_DILEMMA, UNDECIDED, diagnose, schelling_diagram

KEY = jax.random.key(0)
COLUMNS = ("gain", "benefit", "fear", "greed")


def always(action, agents):
    return lambda state, observation, key: jnp.full(agents, action, jnp.int32)


def played(env, **settings):
    return play_compositions(env, always(0, env.num_agents), always(1, env.num_agents), KEY, episodes=3, **settings)


# --- playing -----------------------------------------------------------------------------------------


def test_public_goods_give_two_parallel_lines():
    """R_D(l) = T (e + r l / n), R_C(l) = T (e - 1 + r (l + 1) / n)."""
    found = played(marl_bench.make("public_goods", players=5, multiplier=2.0, horizon=10))
    others = np.arange(5)
    np.testing.assert_allclose(found.defectors[:-1], np.tile(10 * (1 + 2 * others / 5), (3, 1)).T, rtol=1e-5)
    np.testing.assert_allclose(found.cooperators[1:], np.tile(10 * 2 * (others + 1) / 5, (3, 1)).T, rtol=1e-5)
    np.testing.assert_allclose(found.group[:, 0], 10 * (5 + np.arange(6)), rtol=1e-5)
    assert np.isnan(found.cooperators[0]).all() and np.isnan(found.defectors[-1]).all()
    assert (found.lengths == 10).all()


def test_batches_do_not_change_the_outcome():
    env = marl_bench.make("coin_game", horizon=12)
    known = env.scripted_policies()
    one, two = (
        play_compositions(env, known["cooperate"], known["defect"], KEY, episodes=4, batch=batch) for batch in (5, 512)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    # A coin game pays 1 for a coin and -2 for a theft, so both kinds of composition stay within these bounds.
    assert (one.cooperators[2] >= 0).all() and np.isfinite(one.group).all()


def test_rewards_after_the_end_do_not_count():
    env = marl_bench.make("public_goods", players=2, horizon=4)
    longer = played(env, steps=9)
    np.testing.assert_array_equal(longer.group, played(env).group)
    assert (longer.lengths == 4).all()
    assert (played(env, steps=3).lengths == 3).all()


def test_every_agent_takes_both_roles():
    """With unequal agents the returns of a composition vary between episodes by who cooperates."""
    payoff = np.zeros((2, 2, 2), np.float32)
    payoff[0, 0, :], payoff[1, :, 0] = 1.0, 5.0  # cooperating earns agent 0 one and agent 1 five
    env = marl_bench.make("matrix_game", game="custom", payoff=payoff, horizon=1)
    found = play_compositions(env, always(0, 2), always(1, 2), KEY, episodes=40)
    assert set(found.cooperators[1]) == {1.0, 5.0} and set(found.cooperators[2]) == {3.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"episodes": 0}, "episodes=0"), ({"steps": 0}, "steps=0"), ({"batch": 0}, "batch=0")],
)
def test_bad_settings_are_named(settings, message):
    env = marl_bench.make("public_goods", horizon=2)
    with pytest.raises(ValueError, match=message):
        play_compositions(env, always(0, 4), always(1, 4), KEY, **settings)


def test_a_world_without_horizon_needs_steps():
    with pytest.raises(ValueError, match="no fixed horizon"):
        played(marl_bench.make("public_goods", horizon=None))


# --- judging -----------------------------------------------------------------------------------------


def game(reward, sucker, temptation, punishment, noise=0.0, episodes=50):
    """Returns of a symmetric 2 x 2 game."""
    rng = np.random.default_rng(0)
    wobble = noise * rng.standard_normal((3, 3, episodes))
    cooperators = np.array([[np.nan], [sucker], [reward]]) + wobble[0]
    defectors = np.array([[punishment], [temptation], [np.nan]]) + wobble[1]
    group = np.array([[2 * punishment], [sucker + temptation], [2 * reward]]) + wobble[2]
    return cooperators, defectors, group


@pytest.mark.parametrize(
    ("letters", "verdict", "kind"),
    [
        ((3, 0, 5, 1), DILEMMA, "prisoner's dilemma"),
        ((3, 2, 5, 0), DILEMMA, "chicken"),
        ((4, 0, 2, 2), DILEMMA, "stag hunt"),
        ((4, 3, 2, 1), NO_DILEMMA, "harmony"),
        ((1, 0, 3, 2), NO_DILEMMA, "deadlock"),
    ],
)
def test_two_player_games_are_recognised(letters, verdict, kind):
    for noise in (0.0, 0.05):
        found = diagnose(*game(*letters, noise=noise))
        assert (found.verdict, found.kind) == (verdict, kind)
    reward, sucker, temptation, punishment = letters
    exact = diagnose(*game(*letters))
    estimates = [exact.gain.estimate, exact.benefit.estimate, exact.fear.estimate, exact.greed.estimate]
    assert estimates == [reward - punishment, reward - sucker, punishment - sucker, temptation - reward]
    assert exact.gain.low == exact.gain.high == reward - punishment and exact.gain.n == 50


def test_noise_leaves_the_verdict_open():
    found = diagnose(*game(1.0, 0.0, 1.2, 0.95, noise=1.0))
    assert found.verdict == UNDECIDED and 0.025 < found.probability < 0.975
    assert found.gain.low < 0 < found.gain.high


def test_intervals_cover_like_a_normal_approximation():
    found = diagnose(*game(3.0, 0.0, 5.0, 1.0, noise=1.0, episodes=400))
    width = found.greed.high - found.greed.low
    np.testing.assert_allclose(width, 2 * 1.96 * np.sqrt(2 / 400), rtol=0.15)
    again = diagnose(*game(3.0, 0.0, 5.0, 1.0, noise=1.0, episodes=400))
    assert again == found


def test_crossings_and_tipping_point():
    """R_D - R_C = 2, 1, -1, 0, -3 for l = 0 ... 4: crosses between 1 and 2 and touches 0 at 3."""
    cooperators = np.array([np.nan, 1, 2, 3, 4, 5.0])[:, None] * np.ones(2)
    defectors = np.array([3, 3, 2, 4, 2, np.nan])[:, None] * np.ones(2)
    group = np.array([0, 3, 9, 11, 10, 8.0])[:, None] * np.ones(2)
    found = diagnose(cooperators, defectors, group)
    assert found.crossings == (1.5, 3.0) and found.tipping == 3
    assert [interval.estimate for interval in found.defector] == [3, 3, 2, 4, 2]
    assert [interval.estimate for interval in found.cooperator] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, d, g: (c[:2], d, g), "cooperators has shape"),
        (lambda c, d, g: (c, d[:, :1], g), "defectors has shape"),
        (lambda c, d, g: (c, d, g[:, :5]), "shapes differ"),
        (lambda c, d, g: (c, d, g * np.nan), "group holds non-finite"),
    ],
)
def test_bad_data_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        diagnose(*change(*game(3, 0, 5, 1)))


def test_diagram_shows_both_curves_and_the_group():
    found = diagnose(*game(3, 0, 5, 1, noise=0.1))
    figure = schelling_diagram(found, "a world")
    left, right = figure.axes
    lines = {container.get_label(): container.lines[0].get_ydata() for container in left.containers}
    np.testing.assert_allclose(lines["a cooperator, R_C"], [interval.estimate for interval in found.cooperator])
    np.testing.assert_allclose(lines["a defector, R_D"], [interval.estimate for interval in found.defector])
    np.testing.assert_allclose(right.containers[0].lines[0].get_ydata(), [i.estimate for i in found.group])
    assert "a world: social dilemma (prisoner's dilemma)" in figure.get_suptitle()


# --- the command ---------------------------------------------------------------------------------------


def test_files_and_overview(tmp_path, capsys):
    assert schelling.main("coin_game", tmp_path, fields=["horizon=40"], episodes=100) == 0
    assert schelling.main("coin_game", tmp_path, fields=["env.horizon=40", "penalty=0.0"], episodes=100, seed=3) == 0
    names = ("coin_game-horizon_40", "coin_game-horizon_40-penalty_0.0")
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in names)
    assert first["verdict"] == DILEMMA and first["kind"] == "prisoner's dilemma"
    assert "social dilemma (prisoner's dilemma)" in capsys.readouterr().out
    # Without a penalty nobody minds being robbed, and taking every coin is best for all.
    assert second["verdict"] == NO_DILEMMA
    assert (
        second["command"]
        == "marl-bench schelling env=coin_game env.horizon=40 env.penalty=0.0 --out DIR --episodes 100 --seed 3"
    )
    assert first["gain"][0] == pytest.approx(first["cooperator"][-1][0] - first["defector"][0][0], abs=1e-5)
    assert first["agents"] == 2 and first["mean_steps"] == 40 and first["versions"]["jax"] == jax.__version__
    overview = (tmp_path / "README.md").read_text()
    cells = next(line for line in overview.splitlines() if line.startswith(f"| [{names[0]}]")).split(" | ")
    shown = [f"{estimate:.3g} ({low:.3g} to {high:.3g})" for estimate, low, high in map(first.get, COLUMNS)]
    assert cells[4:8] == shown and "| gain | benefit | fear | greed |" in overview
    for path in tmp_path.glob("*.png"):
        assert f"({path.name})" in overview
    assert overview.count("**social dilemma**") == 1 and overview.count("**no social dilemma**") == 1


@pytest.mark.parametrize(
    ("world", "settings", "message"),
    [
        ("coin_gme", {}, "unknown environment 'coin_gme'"),
        ("coin_game", {"cooperate": "coperate"}, "--cooperate coperate: .*; did you mean 'cooperate'"),
        ("equal_line", {}, r"--cooperate cooperate: equal_line has no such policy; choose .* --defect \(known: slot,"),
        ("equal_line", {"cooperate": "slot"}, "--defect defect: equal_line has no such policy"),
        ("coin_game", {"episodes": 1}, "--episodes 1: must be at least 2"),
        ("coin_game", {"episodes": 0}, "--episodes 0: must be at least 2"),
        ("coin_game", {"steps": 0}, "--steps 0: must be at least 1"),
        ("coins_mp", {}, "coins_mp has no fixed horizon; .* --steps N"),
        ("cleanup", {"fields": ["players=1"]}, "cleanup has 1 agent; .* at least 2"),
        ("coin_game", {"fields": ["size=1"]}, "size=1"),
        ("coin_game", {"fields": ["foo=1"]}, r"env.foo: coin_game has no field 'foo' \(fields: size,"),
    ],
)
def test_mistakes_are_explained(world, settings, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        schelling.main(world, tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_played(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("marl_bench.envs.social.schelling.play_compositions", None)
    with pytest.raises(RunError, match=r"--out .*cannot be written"):
        schelling.main("coin_game", tmp_path / "file" / "folder")
