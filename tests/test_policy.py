"""Trained policies, loaded from a run directory alone."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench.environment import Observation
from marl_bench.errors import RunError, UsageError
from marl_bench.experiments import sweep
from marl_bench.experiments.cells import SweepConfig, expand
from marl_bench.experiments.policy import load_policy
from marl_bench.experiments.sweep import run_sweep
from marl_bench.runtime import checkpoint

BASE = [
    "env=network_dilemma",
    "learner=dqn",
    "env.side=4",
    "learner.hidden_sizes=(8,)",
    "learner.batch_size=8",
    "learner.buffer_steps=20",
    "learner.evaluation_steps=20",
    "learner.learning_rate=0.01",
    "seeds=2",
    "steps=100",
]

SCRIPT = """
import json, sys
import jax, numpy as np
from marl_bench import load_policy
policy = load_policy(sys.argv[1], int(sys.argv[2]))
view = np.asarray(json.loads(sys.stdin.read()), np.float32)
observation = policy.environment.observe_view(view, 0)
act = jax.jit(policy, static_argnames="greedy")
actions, _ = act(observation, policy.initial_memory(), jax.random.key(7))
greedy, _ = act(observation, policy.initial_memory(), jax.random.key(7), greedy=True)
print(json.dumps([actions.tolist(), greedy.tolist()]))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs: networks shared (plain views, and views with both learner inputs), and two groups of agents."""
    folder = tmp_path_factory.mktemp("policy")
    for name, tokens in (
        ("shared", ["env.observe=actions,both"]),
        ("grouped", ["learner.sharing=grouped", "learner.num_groups=2"]),
    ):
        config = SweepConfig.from_tokens([*BASE, *tokens])
        run_sweep(config, folder / name, wandb="disabled", quiet=True)
    return folder


def observe(environment, seed: int = 0) -> Observation:
    """A random view: 0 or 1 in every entry that the environment itself writes, zero in the learner's."""
    shape = (environment.num_agents, *environment.observation_shape)
    view = np.random.default_rng(seed).integers(0, 2, shape).astype(np.float32)
    if environment.learner_inputs:
        view[:, -len(environment.learner_inputs) :] = 0
    return environment.observe_view(jnp.asarray(view), 0)


def stored_layers(run: Path, pack: int, row: int) -> list[dict[str, jax.Array]]:
    arrays, _, _ = checkpoint.restore_raw(run / "checkpoints" / f"pack-{pack:04d}")
    return [{n: jnp.asarray(arrays[f".params['network'][{k}]['{n}']"][row]) for n in "wb"} for k in range(2)]


def q_by_hand(layers, view: np.ndarray) -> np.ndarray:
    """[N, A] action values of a network with one hidden layer, written out."""
    hidden = np.maximum(view @ np.asarray(layers[0]["w"]) + np.asarray(layers[0]["b"]), 0)
    return hidden @ np.asarray(layers[1]["w"]) + np.asarray(layers[1]["b"])


@pytest.mark.parametrize("cell", [0, 1])
def test_policy_is_the_checkpoint(runs, cell):
    policy = load_policy(runs / "shared", cell)
    spec = expand(SweepConfig.from_yaml(runs / "shared" / "config.yaml"))[cell]
    assert policy.columns == spec.columns and policy.columns["seed"] == cell
    layers = stored_layers(runs / "shared", pack=0, row=cell)
    observation, key = observe(policy.environment), jax.random.key(3)
    expected, _ = spec.learner.act({"network": layers}, (), observation, key)
    actions, memory = policy(observation, policy.initial_memory(), key)
    assert memory == () and actions.dtype == jnp.int32
    np.testing.assert_array_equal(actions, expected)
    greedy, _ = policy(observation, (), key, greedy=True)
    one = [{name: leaf[0] for name, leaf in layer.items()} for layer in layers]
    np.testing.assert_array_equal(greedy, q_by_hand(one, np.asarray(observation.agents_view)).argmax(axis=1))


def test_cells_have_policies_of_their_own(runs):
    first, second = (load_policy(runs / "shared", cell).params["network"][0]["w"] for cell in (0, 1))
    assert not np.array_equal(first, second)


def test_greedy_is_deterministic_and_sampling_is_not(runs):
    policy = load_policy(runs / "shared", 0)
    # A temperature far above the payoffs makes both actions about equally likely.
    noisy = type(policy)(policy.environment, policy.learner.replace(evaluation_temperature=100.0), policy.params, {})
    act = jax.jit(noisy, static_argnames="greedy")
    observation, keys = observe(policy.environment), jax.random.split(jax.random.key(0), 20)
    greedy = np.stack([act(observation, (), key, greedy=True)[0] for key in keys])
    assert (greedy == greedy[0]).all()
    sampled = np.stack([act(observation, (), key)[0] for key in keys])
    assert 0.3 < sampled.mean() < 0.7 and len(np.unique(sampled, axis=0)) == 20
    np.testing.assert_array_equal(act(observation, (), keys[0])[0], sampled[0])


@pytest.mark.parametrize("cell", [0, 2])
def test_a_fresh_process_needs_only_the_directory(runs, tmp_path, cell):
    moved = Path(shutil.copytree(runs / "shared", tmp_path / "moved"))
    policy = load_policy(runs / "shared", cell)
    observation = observe(policy.environment, seed=5)
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(moved), str(cell)],
        input=json.dumps(np.asarray(observation.agents_view).tolist()),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    actions, greedy = json.loads(process.stdout)
    assert actions == policy(observation, (), jax.random.key(7))[0].tolist()
    assert greedy == policy(observation, (), jax.random.key(7), greedy=True)[0].tolist()


def test_learner_inputs_are_filled_with_their_final_values(runs):
    """Observed temperature and progress stand at 0 and 1 after training, whatever the view holds there."""
    policy = load_policy(runs / "shared", 2)
    assert policy.environment.learner_inputs == ("temperature", "progress")
    observation = observe(policy.environment)
    filled = np.asarray(observation.agents_view).copy()
    filled[:, -2:] = (0.0, 1.0)
    layers = stored_layers(runs / "shared", pack=1, row=0)
    one = [{name: leaf[0] for name, leaf in layer.items()} for layer in layers]
    greedy, _ = jax.jit(policy, static_argnames="greedy")(observation, (), jax.random.key(0), greedy=True)
    np.testing.assert_array_equal(greedy, q_by_hand(one, filled).argmax(axis=1))
    spoiled = observation._replace(agents_view=observation.agents_view.at[:, -2:].set(9.0))
    expected, _ = policy.learner.act(policy.params, (), observation._replace(agents_view=filled), jax.random.key(1))
    np.testing.assert_array_equal(policy(spoiled, (), jax.random.key(1))[0], expected)


def test_shared_policy_plays_with_another_number_of_agents(runs):
    policy = load_policy(runs / "shared", 0)
    larger = marl_bench.make("network_dilemma", side=7)
    state, timestep = larger.reset(jax.random.key(0))
    actions, _ = jax.jit(policy)(timestep.observation, policy.initial_memory(), jax.random.key(1))
    assert actions.shape == (49,) and set(np.unique(actions)) <= {0, 1}
    larger.step(state, actions)


def test_grouped_policy_uses_each_agents_network_and_names_a_wrong_number(runs):
    policy = load_policy(runs / "grouped", 1)
    group = np.asarray(policy.params["group"])
    assert sorted(group.tolist()) == [0] * 8 + [1] * 8
    observation = observe(policy.environment)
    layers = stored_layers(runs / "grouped", pack=0, row=1)
    values = [
        q_by_hand([{n: leaf[g] for n, leaf in layer.items()} for layer in layers], observation.agents_view)
        for g in (0, 1)
    ]
    expected = np.where(group[:, None] == 0, *values).argmax(axis=1)
    np.testing.assert_array_equal(policy(observation, (), jax.random.key(0), greedy=True)[0], expected)
    _, timestep = marl_bench.make("network_dilemma", side=5).reset(jax.random.key(0))
    with pytest.raises(ValueError, match=r"networks for 16 agents, the observation has 25 \(num_agents\)"):
        policy(timestep.observation, (), jax.random.key(0))


def test_a_view_of_another_width_is_named(runs):
    _, timestep = marl_bench.make("network_dilemma", side=4, observe="both").reset(jax.random.key(0))
    with pytest.raises(ValueError, match="agents_view has 7 entries an agent, this policy's network takes 5"):
        load_policy(runs / "shared", 0)(timestep.observation, (), jax.random.key(0))


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [4, -1])
def test_unknown_cell(runs, cell):
    with pytest.raises(UsageError, match=rf"cell={cell}: .*shared has cells 0 to 3"):
        load_policy(runs / "shared", cell)


class Marker:
    """Pickled, it writes a file when it is opened."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.pkl", "model.pt", "model.bin"])
def test_a_pickle_is_refused_and_never_opened(tmp_path, name):
    marker, file = tmp_path / "executed", tmp_path / name
    file.write_bytes(pickle.dumps(Marker(marker)))
    with pytest.raises(RunError, match=name):
        load_policy(file)
    assert not marker.exists()
    pickle.loads(file.read_bytes())
    assert marker.exists()  # the bait would have worked


def test_missing_foreign_and_unfinished_directories(runs, tmp_path):
    with pytest.raises(RunError, match="no such run directory"):
        load_policy(tmp_path / "missing")
    with pytest.raises(RunError, match=r"holds no config\.yaml, so it is not a run directory"):
        load_policy(tmp_path)
    copy = Path(shutil.copytree(runs / "grouped", tmp_path / "copy"))
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunError, match="holds no intact checkpoint"):
        load_policy(copy)


def test_a_run_that_goes_on_gives_its_newest_policy(runs, tmp_path, monkeypatch):
    """Policies of an unfinished run come from its last checkpoint."""
    config = SweepConfig.from_tokens([*BASE, "env.observe=actions,both"])

    class Broken:
        points = 0

        def start(self, pack_info): ...
        def finish(self, results): ...

        def log(self, rows):
            self.points += 1
            if self.points == 6:
                raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "make_sinks", lambda *_, **__: [Broken()])
    with pytest.raises(KeyboardInterrupt):
        run_sweep(config, tmp_path / "out", quiet=True, checkpoint_seconds=0)
    arrays, _, done = checkpoint.restore_raw(tmp_path / "out" / "checkpoints" / "pack-0000")
    assert done == 5
    policy = load_policy(tmp_path / "out", 1)
    np.testing.assert_array_equal(policy.params["network"][0]["w"], arrays[".params['network'][0]['w']"][1])
    finished = load_policy(runs / "shared", 1)
    assert not np.array_equal(policy.params["network"][0]["w"], finished.params["network"][0]["w"])
