"""`marl-bench render`: frames are the episode, files are what they claim, requests are checked; the gallery is complete."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import marl_bench
from marl_bench import cli
from marl_bench.envs.coin_game import viewer as coin_viewer
from marl_bench.envs.foraging import viewer as foraging_viewer
from marl_bench.errors import RunError, UsageError
from marl_bench.experiments import gallery, render
from marl_bench.experiments.cells import SweepConfig
from marl_bench.experiments.sweep import run_sweep
from marl_bench.scripted import scripted_policy

ROOT = Path(__file__).parent.parent
GAME = ["env=coin_game", "env.horizon=6"]


def test_frames_are_the_states_of_the_episode():
    env, player = render.read_request([*GAME, "policy=scripted"])
    frames = render.play(env, player, 100, seed=3)
    assert len(frames) == 7
    key_start, key_play = jax.random.split(jax.random.key(3))
    state, timestep = jax.jit(env.reset)(key_start)
    policy = scripted_policy(env)
    step = jax.jit(lambda state, seen, key: env.step(state, policy(state, seen, key)))
    for count, frame in enumerate(frames):
        np.testing.assert_array_equal(frame, env.render(state))
        state, timestep = step(state, timestep.observation, jax.random.fold_in(key_play, count))
    assert len(render.play(env, player, 2, seed=3)) == 3
    (last,) = render.play(env, player, 2, seed=3, last_only=True)
    np.testing.assert_array_equal(last, frames[2])


def test_a_gif_holds_every_frame_and_a_png_one(tmp_path):
    gif, png = tmp_path / "a.gif", tmp_path / "a.png"
    assert cli.main(["render", *GAME, "policy=scripted", "--out", str(gif), "--seed", "1", "--fps", "5"]) == 0
    assert cli.main(["render", *GAME, "--out", str(png), "--seed", "1"]) == 0
    env, player = render.read_request([*GAME, "policy=scripted"])
    frames = render.play(env, player, 100, seed=1)
    with Image.open(gif) as picture:
        assert picture.format == "GIF" and picture.n_frames == len(set(map(np.ndarray.tobytes, frames)))
        assert picture.info["duration"] >= 200 and picture.info["loop"] == 0
        shown = np.asarray(picture.convert("RGB"), int)
        assert np.abs(shown - frames[0]).mean() < 8
    with Image.open(png) as picture:
        np.testing.assert_array_equal(np.asarray(picture), frames[0])


TORUS = ["env=network_dilemma", "env.side=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    learner = ["hidden_sizes=(8,)", "batch_size=8", "buffer_steps=20", "evaluation_steps=20"]
    tokens = [*TORUS, "learner=dqn", *(f"learner.{setting}" for setting in learner), "seeds=1", "steps=100"]
    run_sweep(SweepConfig.from_tokens(tokens), out, wandb="disabled", quiet=True)
    return out


def test_a_run_plays_what_it_learned(trained):
    env, player = render.read_request([*TORUS, f"policy={trained}"])
    frames = render.play(env, player, 10, seed=0)
    assert len(frames) == 11
    again = render.play(env, player, 10, seed=0)
    assert all((a == b).all() for a, b in zip(frames, again, strict=True))


def test_a_run_of_another_game_is_refused(trained):
    with pytest.raises(UsageError, match=r"trained on NetworkDilemma .* but env is CoinGame"):
        render.read_request(["env=coin_game", f"policy={trained}"])


@pytest.mark.parametrize(
    ("tokens", "out", "options", "message"),
    [
        (["env=coin_gam"], "a.gif", {}, "did you mean 'coin_game'"),
        ([], "a.gif", {}, "env: missing"),
        ([*GAME, "policy=scriptd"], "a.gif", {}, r"did you mean 'scripted'.*known: random, scripted.*no run directory"),
        ([*GAME, "env.horizn=3"], "a.gif", {}, "did you mean 'horizon'"),
        ([*GAME, "color=red"], "a.gif", {}, "color=red: expected env=NAME"),
        (GAME, "a.mp4", {}, r"must end in .gif or .png"),
        (GAME, "a.gif", {"steps": -1}, "--steps -1: must be at least 0"),
        (GAME, "a.gif", {"frames_per_second": 0}, "--fps 0: must be between 1 and 100"),
        (GAME, "a.gif", {"seed": -1}, "--seed -1: must be between 0"),
        (
            [*GAME, "policy=random", "policy=defect"],
            "a.gif",
            {},
            "policy=defect: policy is given already, as policy=random",
        ),
    ],
)
def test_wrong_requests_are_named(tokens, out, options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        render.main(tokens, tmp_path / "new" / out, **options)
    assert not (tmp_path / "new").exists()


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(
        RunError, match=rf"policy={tmp_path}: holds no config.yaml.* \(policies of coin_game: random, scr"
    ):
        render.main([*GAME, f"policy={tmp_path}"], tmp_path / "a.gif")


def test_where_nothing_can_be_written_nothing_is_played(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "play", lambda *arguments, **options: pytest.fail("played"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for out in (tmp_path / "file" / "a.gif", tmp_path / "folder.png"):
        with pytest.raises(RunError, match=f"--out {out}: cannot be written"):
            render.main(GAME, out)


def test_the_folder_of_a_picture_is_made(tmp_path):
    out = tmp_path / "a" / "b" / "c.png"
    assert render.main(GAME, out) == 0
    with Image.open(out) as picture:
        assert picture.width > 1
    assert [path.name for path in out.parent.iterdir()] == ["c.png"]


def test_a_world_without_a_picture_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(type(marl_bench.make("coin_game")), "render", marl_bench.Environment.render)
    with pytest.raises(UsageError, match="env=coin_game: CoinGame offers no picture"):
        render.main(GAME, tmp_path / "a.gif")


def test_an_unwritable_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"missing/a.gif: cannot be written"):
        render.write([np.zeros((4, 4, 3), np.uint8)], tmp_path / "missing" / "a.gif")


def test_small_integers_of_a_state_do_not_overflow_in_pixels():
    def bytes_(*values):
        return np.array(values, np.int8)

    coins = SimpleNamespace(
        row=bytes_(7, 0), col=bytes_(7, 1), coin_row=bytes_(7, 2), coin_col=bytes_(0, 7), coin_owner=bytes_(0, 1)
    )
    picture = coin_viewer.render(coins, 8)
    cells = picture.reshape(8, 32, 8, 32, 3).swapaxes(1, 2)
    red = (cells == coin_viewer.COLOURS[0]).all(axis=-1).any(axis=(2, 3))
    assert set(zip(*map(np.ndarray.tolist, np.nonzero(red)), strict=True)) == {(7, 7), (7, 0)}
    board = SimpleNamespace(
        food_row=bytes_(9), food_col=bytes_(6), food_level=bytes_(2), row=bytes_(8), col=bytes_(9), level=bytes_(1)
    )
    picture = foraging_viewer.render(board, 10, 10)
    cells = picture.reshape(10, 32, 10, 32, 3).swapaxes(1, 2)
    green = (cells == foraging_viewer.FOOD).all(axis=-1).any(axis=(2, 3))
    assert set(zip(*map(np.ndarray.tolist, np.nonzero(green)), strict=True)) == {(9, 6)}


# --- gallery -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", gallery.worlds())
def test_the_gallery_shows_every_world(name):
    file = ROOT / "docs" / "gallery" / f"{name}.gif"
    assert file.is_file(), f"run: python -m marl_bench.experiments.gallery docs {name}"
    assert file.stat().st_size <= gallery.MAX_BYTES
    with Image.open(file) as picture:
        assert picture.n_frames > 1


def test_the_page_of_the_gallery_is_what_the_script_writes():
    written = (ROOT / "docs" / "gallery.md").read_text()
    assert written == gallery.page(gallery.worlds()), "run: python -m marl_bench.experiments.gallery docs"


def test_a_picture_that_is_too_large_is_drawn_with_fewer_steps(monkeypatch, tmp_path):
    monkeypatch.setattr(gallery, "MAX_BYTES", 6000)
    monkeypatch.setitem(gallery.SCENES, "coin_game", gallery.Scene(("horizon=40",), "random", 40))
    out = gallery.draw("coin_game", tmp_path)
    with Image.open(out) as picture:
        assert 1 < picture.n_frames < 40 and out.stat().st_size <= 6000
