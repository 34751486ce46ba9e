"""Recording data: episodes are what the world gave, whatever stops the recording; behaviours; tiers."""

from __future__ import annotations

import errno
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from small_datasets import assert_same
from tiny_worlds import MemoryGame

from marl_bench import cli, make
from marl_bench.datasets import behaviours
from marl_bench.datasets.collect import Collector, scripted
from marl_bench.datasets.schema import ROW_FIELDS, joined
from marl_bench.datasets.stored import open_dataset
from marl_bench.datasets.writer import DatasetWriter
from marl_bench.errors import RunError, UsageError
from marl_bench.experiments import dataset_tiers
from marl_bench.experiments.dataset_tiers import Recipe, collect_policy, collect_tiers, segments
from marl_bench.scripted import random_policy, scripted_policy


@struct.dataclass
class Fuse(MemoryGame):
    """Burns down after 1 to 4 steps (the first agent's cue and the second's say which); unlike in the base class, in no fixed time."""

    horizon: int = struct.field(pytree_node=False, default=3)

    @property
    def fixed_horizon(self):
        return None

    def step(self, state, actions):
        state = state.replace(step=state.step + 1)
        ends = 1 + state.cue[0] + 2 * state.cue[1]
        reward = jnp.float32([1.0, 2.0]) * state.step + actions
        return state, self.transition(reward, self._observed(state), terminated=state.step >= ends)


@pytest.fixture(scope="module")
def line():
    """A short world, and who plays it at random, seven episodes at once."""
    world = make("equal_line", players=3, horizon=6)
    return world, Collector(world, *scripted(random_policy(world)), together=7)


def test_episodes_are_what_the_world_gives(line):
    world, player = line
    found = player.play((), 5, 0, 10)
    assert found.lengths.tolist() == [6] * 10 and found.actions.dtype == np.int32
    keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(jax.random.key(5), number))[0])(np.arange(10))
    states, timestep = jax.vmap(world.reset)(keys)
    step = jax.jit(jax.vmap(world.step))
    rows = {name: getattr(found, name).reshape(10, 6, *getattr(found, name).shape[1:]) for name in ROW_FIELDS}
    for time in range(6):
        np.testing.assert_array_equal(rows["observations"][:, time], timestep.observation.agents_view)
        np.testing.assert_array_equal(rows["legals"][:, time], timestep.observation.action_mask)
        np.testing.assert_array_equal(rows["state"][:, time], jax.vmap(world.global_state)(states))
        states, timestep = step(states, rows["actions"][:, time])
        np.testing.assert_array_equal(rows["rewards"][:, time], timestep.reward)
        np.testing.assert_array_equal(rows["terminals"][:, time], timestep.discount == 0)
        assert (rows["truncations"][:, time] == (np.asarray(timestep.discount) != 0) * (time == 5)).all()
    np.testing.assert_array_equal(found.last_observations, timestep.observation.agents_view)
    np.testing.assert_array_equal(found.last_state, jax.vmap(world.global_state)(states))
    assert np.unique(found.actions).size == 11


def test_an_episode_depends_on_seed_and_number_alone(line):
    _, player = line
    whole = player.play((), 1, 0, 9)
    assert_same(player.play((), 1, 4, 5), whole.episodes(np.arange(4, 9)))
    assert_same(joined([player.play((), 1, first, 1) for first in range(3)]), whole.episodes([0, 1, 2]))
    assert (player.play((), 2, 0, 9).actions != whole.actions).any()


def test_episodes_end_with_the_game_or_are_cut():
    world = Fuse()
    found = Collector(world, *scripted(random_policy(world)), together=64).play((), 0, 0, 64)
    assert sorted(set(found.lengths)) == [1, 2, 3] and found.state is None
    starts = np.cumsum(found.lengths) - found.lengths
    cues = found.observations[starts, :, 1].astype(int)
    wanted = 1 + cues[:, 0] + 2 * cues[:, 1]
    np.testing.assert_array_equal(found.lengths, np.minimum(wanted, 3))
    last = np.cumsum(found.lengths) - 1
    np.testing.assert_array_equal(found.terminals[last, 0], wanted <= 3)
    np.testing.assert_array_equal(found.truncations[last, 0], wanted == 4)
    assert found.terminals.sum() + found.truncations.sum() == 2 * 64
    # What is seen last is of the moment of the end, not of steps that were played on.
    np.testing.assert_allclose(found.last_observations[:, 0, 2], found.lengths / 2)
    time = np.arange(found.num_steps) - np.repeat(starts, found.lengths)
    np.testing.assert_array_equal(found.rewards, [1.0, 2.0] * (time[:, None] + 1) + found.actions)


# --- behaviours --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.25, 1.0])
def test_noise_is_uniform_and_of_each_agent_alone(epsilon):
    world = make("consensus", players=3)
    act, memory = scripted(scripted_policy(world, "stay"))
    found = Collector(world, behaviours.noisy(act, world, epsilon), memory, together=2000).play((), 0, 0, 2000)
    moved = found.actions != 0
    deviation = 4.5 / np.sqrt(moved.size)
    assert abs(moved.mean() - epsilon * 2 / 3) < deviation
    assert abs((found.actions == 1).mean() - epsilon / 3) < deviation
    assert np.abs(np.corrcoef(moved.T) - np.eye(3)).max() < 4.5 / np.sqrt(2000)


@pytest.mark.parametrize("together", [True, False])
def test_scaled_slots_end_where_the_scale_says(together):
    world = make("equal_line", players=3)
    found = Collector(world, *behaviours.scaled_slots(3, 0.4, together), together=200).play((), 0, 0, 200)
    ends = found.last_state[:, 1:] / np.array([0.5, 1.0])
    assert ends.min() > 0.4 - 0.01 and ends.max() < 1.01 and ends.std() > 0.1
    same = np.abs(ends[:, 0] - ends[:, 1]) < 0.005
    assert same.all() if together else same.mean() < 0.2
    if together:
        np.testing.assert_allclose(found.returns[:, 0], 10 * ends[:, 1], atol=0.1)


# --- recording to the disk ----------------------------------------------------------------------------------------


def test_recording_goes_on_to_the_same_data(line, tmp_path, monkeypatch):
    world, _ = line
    monkeypatch.setattr(dataset_tiers, "_PIECE", 2)
    whole = open_dataset(collect_policy("equal_line", world, "random", 2, 5, tmp_path / "whole"))
    append = DatasetWriter.append

    def stopped(writer, part, new):
        if writer.num_episodes(0) == 5:
            raise KeyboardInterrupt
        append(writer, part, new)

    monkeypatch.setattr(DatasetWriter, "append", stopped)
    with pytest.raises(KeyboardInterrupt):
        collect_policy("equal_line", world, "random", 2, 5, tmp_path / "stopped")
    begun = open_dataset(tmp_path / "stopped")
    assert (begun.num_episodes(0), begun.num_episodes(1)) == (5, 0)
    monkeypatch.setattr(DatasetWriter, "append", append)
    again = open_dataset(collect_policy("equal_line", world, "random", 2, 5, tmp_path / "stopped"))
    again.verify()
    for part in range(2):
        assert_same(again.read(part), whole.read(part))
    assert again.parts == whole.parts
    with pytest.raises(UsageError, match=r"begun with recipe .*choose another folder"):
        collect_policy("equal_line", world, "random", 2, 6, tmp_path / "stopped")


def test_a_full_disk_leaves_what_is_complete(line, tmp_path, monkeypatch):
    from marl_bench.runtime import files

    world, _ = line
    monkeypatch.setattr(dataset_tiers, "_PIECE", 2)
    replace, out = files.os.replace, tmp_path / "set"

    def full(source, target):
        if "chunk-000001" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(RunError, match="disk full"):
        collect_policy("equal_line", world, "random", 1, 4, out)
    monkeypatch.setattr(files.os, "replace", replace)
    found = open_dataset(out)
    found.verify()
    assert found.num_episodes(0) == 2
    whole = open_dataset(collect_policy("equal_line", world, "random", 1, 4, out))
    assert_same(whole.read(0, 0, 2), found.read(0))
    assert whole.num_episodes(0) == 4


def test_command_line(tmp_path, capsys):
    words = ["dataset", "collect", "env=consensus", "env.players=2", "--policy", "middle", "--seeds", "2"]
    words += ["--episodes", "5", "--out", str(tmp_path / "set")]
    for _ in range(2):
        assert cli.main(words) == 0 and capsys.readouterr().out == f"{tmp_path / 'set'}\n"
    found = open_dataset(tmp_path / "set")
    found.verify()
    assert found.manifest.world == "consensus" and found.manifest.fields["players"] == 2
    assert [part.episodes for part in found.parts] == [5, 5]
    assert found.parts[0].return_min == found.parts[1].return_max == 1.0
    assert (found.read(0).observations != found.read(1).observations).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("env=consensus --tier mediun", "must be one of random, .*did you mean 'medium'"),
        ("env=consensus --policy midle", "--policy midle: .*'midle'.*or name a run directory"),
        ("env=consensus --policy scaled_slots", "equal_line only"),
        ("env=consensus --policy stay --epsilon 1.5", r"--epsilon 1.5 .*must be in \[0, 1\]"),
        ("env=equal_line --policy scaled_slots --low 0", "low above 0"),
        ("env=consensus --policy stay --seeds 0", "at least 1"),
        ("env=consensus", "either --tier or --policy"),
        ("env=consensus --tier random --policy stay", "either --tier or --policy"),
        ("env=two_step --tier medium", "TwoStep: no recipe for tiers .*collect with --policy"),
        ("env=consensus env.player=2 --policy stay", "did you mean 'players'"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, capsys, words, message):
    out = tmp_path / "out"
    assert cli.main(["dataset", "collect", *words.split(), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize("how", ["--tier random", "--policy stay"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys, how):
    out = tmp_path / "out"
    out.write_text("a file")
    assert cli.main(["dataset", "collect", "env=consensus", *how.split(), "--out", str(out)]) in (1, 2)
    error = capsys.readouterr().err
    assert str(out) in error and error.count("\n") == 1 and "internal" not in error


# --- tiers ---------------------------------------------------------------------------------------------------------


def test_segments():
    scores, played = np.array([1.0, 3.0, 6.0, 11.0, 8.0]), {}
    for tier in dataset_tiers.TIERS:
        found = segments(tier, scores, 1.0, 0.5, 11)
        assert sum(part.episodes for part in found) == 11
        played[tier] = [(part.snapshot, part.episodes) for part in found]
    assert played["random"] == [(None, 11)] and played["expert"] == [(3, 11)]
    assert played["medium"] == [(2, 11)] and played["mixed"] == [(2, 5), (3, 6)]
    assert [snapshot for snapshot, _ in played["medium-replay"]] == [None, 0, 1, 2]
    assert max(count for _, count in played["medium-replay"]) - min(count for _, count in played["medium-replay"]) <= 1
    # A medium policy comes before the best one, even where a later one is nearer to the level.
    assert segments("medium", np.array([0.0, 10.0, 5.0]), 0.0, 0.6, 1)[0].snapshot == 1


def test_tiers_are_of_the_trained_policies(tmp_path, monkeypatch):
    fields = {**dataset_tiers.RECIPES["Consensus"].fields, "batch_size": 4, "num_steps": 1}
    recipe = Recipe("iql", fields, 48, snapshots=3)
    monkeypatch.setitem(dataset_tiers.RECIPES, "Consensus", recipe)
    world = make("consensus", players=2)
    made = collect_tiers("consensus", world, ["expert", "random"], 2, 6, tmp_path)
    assert made == [tmp_path / "expert", tmp_path / "random"]
    policies = tmp_path / "policies.safetensors"
    before = policies.stat().st_mtime_ns
    collect_tiers("consensus", world, ["mixed", "expert"], 2, 6, tmp_path)
    assert policies.stat().st_mtime_ns == before
    for tier in ("expert", "random", "mixed"):
        found = open_dataset(tmp_path / tier)
        found.verify()
        assert found.manifest.tier == tier and [part.episodes for part in found.parts] == [6, 6]
        assert found.manifest.recipe == json.loads(json.dumps(vars(recipe)))
        assert abs(found.manifest.random_return - (1 / 3 + 0.1 * 4 / 9)) < 0.05
    assert "levels of the seeds" in open_dataset(tmp_path / "expert").manifest.behaviour
    with pytest.raises(UsageError, match="another recipe or number of seeds"):
        collect_tiers("consensus", world, ["expert"], 3, 6, tmp_path)
