"""The runner: one compiled program a pack, each cell as if it had been alone, and records that add up."""

from __future__ import annotations

import collections
import json
import logging
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import marl_bench
from marl_bench import Environment, field
from marl_bench.errors import RunError, UsageError
from marl_bench.experiments import sweep
from marl_bench.experiments.cells import SweepConfig, expand
from marl_bench.experiments.sweep import run_sweep
from marl_bench.runtime import checkpoint
from marl_bench.runtime.packs import make_packs
from marl_bench.runtime.run_directory import RunDirectory, read_parquet
from marl_bench.runtime.runner import PackRunner, first_bad_leaf

sys.path.append(str(Path(__file__).parent / "plugins" / "tragedy"))

PROGRAMS = ("start_pack", "train_chunk", "evaluate_pack")
LEARNER = [
    "learner=dqn",
    "learner.hidden_sizes=(8,)",
    "learner.batch_size=8",
    "learner.buffer_steps=20",
    "learner.evaluation_steps=20",
    "learner.anneal_steps=100",
    "learner.target_period=40",
    "learner.learning_rate=0.001",
]
DILEMMA = ["env=network_dilemma", "env.side=4", *LEARNER]
STEPS, UPDATES, AGENTS = 140, 30, 16

# A pack and a single cell are different programs: XLA may order float32 sums differently, a few 1e-7 relative each.
# Over 30 gradient steps of size 1e-3 (Adam divides by the root of the second moment, so tiny gradients amplify their
# rounding) this stays below 1e-6 where it was measured; chaos would need an action whose threshold lies within 1e-7 of its random word.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@struct.dataclass
class PoisonedState:
    step_count: jax.Array  # [] int32


@struct.dataclass
class Poisoned(Environment):
    """Two agents, a reward of 1 that turns into NaN at step `poison`."""

    poison: int = field(1_000_000, doc="first step whose reward is NaN")
    horizon: int = field(7, static=True)

    num_agents = property(lambda self: 2)
    num_actions = property(lambda self: 2)
    observation_shape = property(lambda self: (1,))
    endless = property(lambda self: True)

    def _view(self, state):
        return self.observe_view(jnp.ones((2, 1)), state.step_count)

    def reset(self, key):
        state = PoisonedState(jnp.int32(0))
        return state, self.restart(self._view(state), {"clock": 0.0})

    def step(self, state, actions):
        state = PoisonedState(state.step_count + 1)
        reward = jnp.where(state.step_count >= self.poison, jnp.nan, 1.0) * jnp.ones(2)
        return state, self.transition(reward, self._view(state), metrics={"clock": state.step_count})


def compiled(caplog) -> collections.Counter:
    """How often JAX compiled each program (also when the persistent cache had it), from its own log."""
    found = (re.search(r"Finished XLA compilation of (?:jit\()?([\w<>]+)", r.getMessage()) for r in caplog.records)
    return collections.Counter(match[1] for match in found if match)


class Stub:
    """A sink that remembers what it was told."""

    def __init__(self):
        self.calls = []

    def start(self, pack_info):
        self.calls.append(("start", pack_info))

    def log(self, rows):
        self.calls.append(("log", rows))

    def finish(self, results):
        self.calls.append(("finish", results))


# --- one large pack --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A sweep of 7 x 3 leaf values and 3 seeds: 63 cells, so one of the two devices gets a repeated cell."""
    tokens = ["env.dilemma_strength=range(0.05,0.4,0.05)", "learner.initial_temperature=0.3,0.5,0.7", "seeds=3"]
    config = SweepConfig.from_tokens([*DILEMMA, *tokens, f"steps={STEPS}", "log_every=40"])
    out = tmp_path_factory.mktemp("sweep") / "big"
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("jax").addHandler(handler)
    try:
        with jax.log_compiles():
            results = run_sweep(config, out, wandb="disabled", quiet=True)
    finally:
        logging.getLogger("jax").removeHandler(handler)
    log = type("Log", (), {"records": records})
    return config, out, results, compiled(log)


def test_a_pack_of_63_cells_compiles_once(big):
    _, _, results, counts = big
    assert len(results) == 63 and len(jax.devices()) == 2
    assert {name: counts[name] for name in PROGRAMS} == dict.fromkeys(PROGRAMS, 1)
    # Whatever else was compiled (converting a key, say) does not grow with the cells.
    assert sum(counts.values()) <= len(PROGRAMS) + 3, counts


def test_finished_directory_is_read_back_without_compiling(big, caplog):
    config, out, results, _ = big
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    with jax.log_compiles(), caplog.at_level(logging.DEBUG):
        again = run_sweep(config, out, wandb="disabled", quiet=True)
        resumed = run_sweep(config, out, wandb="disabled", quiet=True, resume=True)
    assert not compiled(caplog)
    assert again.equals(results) and resumed.equals(results)
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*")) == before


def test_results_hold_the_grid_and_the_counts(big):
    _, out, results, _ = big
    assert results["cell"].tolist() == list(range(63)) and results["seed"].tolist() == [0, 1, 2] * 21
    np.testing.assert_allclose(results["env.dilemma_strength"], np.repeat(np.arange(1, 8) * 0.05, 9), rtol=1e-12)
    np.testing.assert_allclose(results["learner.initial_temperature"], np.tile(np.repeat([0.3, 0.5, 0.7], 3), 7))
    assert set(results["env"]) == {"network_dilemma"} and set(results["learner.hidden_sizes"]) == {"(8,)"}
    assert set(results["env_steps"]) == {STEPS}
    assert set(results["agent_steps"]) == {STEPS * AGENTS}
    assert set(results["updates"]) == {UPDATES}
    assert results["cooperation_rate"].between(0, 1).all() and results["q_level"].nunique() == 63
    # 20 evaluation steps of 16 agents, each of which sees one of 32 codes.
    assert {sum(row) for row in results["visits"]} == {20 * AGENTS} and {len(row) for row in results["visits"]} == {32}
    assert read_parquet(out / "results.parquet").equals(results)


def test_metrics_have_one_row_a_cell_and_logged_point(big):
    _, out, _, _ = big
    metrics = RunDirectory(out).read_metrics()
    # 30 updates of 4 steps, logged every 40 steps: after 10, 20 and 30 updates.
    assert len(metrics) == 3 * 63 and not metrics.duplicated(["cell", "updates"]).any()
    assert metrics["updates"].tolist() == np.repeat([10, 20, 30], 63).tolist()
    assert metrics["cell"].tolist() == list(range(63)) * 3
    assert (metrics["env_steps"] == 4 * metrics["updates"]).all()
    assert (metrics["agent_steps"] == AGENTS * metrics["env_steps"]).all()
    assert {"loss", "cooperation_rate", "mean_reward", "reward_sum", "reward_mean_per_agent"} <= set(metrics)
    np.testing.assert_allclose(metrics["reward_sum"], AGENTS * metrics["reward_mean_per_agent"], rtol=1e-5)
    assert np.isfinite(metrics.to_numpy()).all()


def test_summary_and_configuration(big):
    config, out, _, _ = big
    summary = json.loads((out / "summary.json").read_bytes())
    assert summary["versions"]["jax"] == jax.__version__ and summary["platform"] == "cpu"
    assert summary["cells"] == 63 and summary["packs"] == 1 and summary["env_steps_per_cell"] == STEPS
    assert summary["trained_cell_steps"] == 63 * STEPS
    for name in ("lower_seconds", "compile_seconds", "run_seconds"):
        assert summary[name] > 0
    assert summary["cell_steps_per_second"] == pytest.approx(63 * STEPS / summary["run_seconds"], rel=0.05)
    assert len(summary["devices"]) == 2 and "git_revision" in summary
    assert SweepConfig.from_yaml(out / "config.yaml").digest() == config.digest()
    cells = RunDirectory(out).read_cells()
    assert cells["row"].tolist() == list(range(63)) and set(cells["pack"]) == {0}


# --- a cell does not notice the others ---------------------------------------------------------------------


def alone(learner, environment, key, num_updates):
    """One cell without any pack: parameters, metrics of the last ten updates, evaluation."""

    def update(state, _):
        return learner.update(state, environment)

    state, metrics = jax.lax.scan(update, learner.init(key, environment), None, num_updates)
    return state, jax.tree.map(lambda leaf: jnp.mean(leaf[-10:]), metrics), learner.evaluate(state, environment)


def test_each_cell_equals_itself_alone(big):
    config, out, results, _ = big
    specs = expand(config)
    arrays, _, done = checkpoint.restore_raw(out / "checkpoints" / "pack-0000")
    assert done == UPDATES and arrays[".env_steps"].shape == (63,)  # the repeated cell is not stored
    logged = RunDirectory(out).read_metrics().query(f"updates == {UPDATES}").set_index("cell")
    run = jax.jit(alone, static_argnums=3)
    for cell in (0, 1, 17, 31, 32, 45, 62):
        spec = specs[cell]
        strong = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), (spec.learner, spec.environment))
        state, metrics, evaluation = run(*strong, jax.random.key(spec.seed), UPDATES)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
            stored = arrays[f".params{jax.tree_util.keystr(path)}"][cell]
            np.testing.assert_allclose(stored, leaf, **TOLERANCE, err_msg=f"cell {cell} {path}")
        np.testing.assert_array_equal(arrays[".world.env_state.actions"][cell], state.world.env_state.actions)
        for name, value in metrics.items():
            np.testing.assert_allclose(logged.loc[cell, name], value, **TOLERANCE, err_msg=f"cell {cell} {name}")
        for name, value in evaluation.items():
            np.testing.assert_allclose(results.loc[cell, name], value, **TOLERANCE, err_msg=f"cell {cell} {name}")


def test_number_of_devices_does_not_matter():
    """Five cells on two devices (three and two with a repeated one) and on one."""
    specs = expand(SweepConfig.from_tokens([*DILEMMA, "env.dilemma_strength=0.1,0.2,0.3,0.4,0.5", f"steps={STEPS}"]))
    pack = make_packs(specs)[0]
    found = []
    for devices in (jax.devices(), jax.devices()[:1]):
        runner = PackRunner(pack, devices)
        state, metrics, finite = runner.train(runner.start(), UPDATES)
        assert finite.tolist() == [True] * 5
        found.append((metrics, runner.evaluate(state), runner.unpadded(state).params))
        assert {leaf.shape[0] for leaf in jax.tree.leaves(found[-1])} == {5}
    jax.tree.map(lambda two, one: np.testing.assert_allclose(two, one, **TOLERANCE), *found)


def test_more_devices_than_cells():
    specs = expand(SweepConfig.from_tokens([*DILEMMA, f"steps={STEPS}"]))
    runner = PackRunner(make_packs(specs)[0], jax.devices())
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(runner.start())} == {1}


def test_program_does_not_grow_with_the_number_of_agents():
    def equations(side: int) -> int:
        spec = expand(SweepConfig.from_tokens(["env=network_dilemma", f"env.side={side}", *LEARNER]))[0]
        state = jax.eval_shape(spec.learner.init, jax.random.key(0), spec.environment)
        return count(jax.make_jaxpr(spec.learner.update)(state, spec.environment).jaxpr)

    def count(jaxpr) -> int:
        inner = [value for eqn in jaxpr.eqns for value in jax.tree.leaves(eqn.params, is_leaf=is_program)]
        inner = [getattr(value, "jaxpr", value) for value in inner if is_program(value)]
        return len(jaxpr.eqns) + sum(count(one) for one in inner)

    def is_program(value) -> bool:
        return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")

    small = equations(4)
    assert small > 200 and equations(8) == small


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["steps=23"], r"steps=23: must be at least evaluation_steps \+ 4 = 24"),
        (["steps=141"], r"steps - evaluation_steps = 121 must be a multiple of .* 4; use steps=140"),
        (["steps=140", "log_every=6"], r"log_every=6: must be a multiple of 4"),
        (["steps=140", "learner.anneal_steps=3000000000"], r"anneal_steps: 3000000000 is outside the range of int32"),
    ],
)
def test_a_run_that_cannot_be_leaves_no_directory(tmp_path, tokens, message):
    names = {token.partition("=")[0] for token in tokens}
    kept = [token for token in DILEMMA if token.partition("=")[0] not in names]
    with pytest.raises(UsageError, match=message):
        run_sweep(SweepConfig.from_tokens([*kept, *tokens]), tmp_path / "out", wandb="disabled", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_cell_too_large_for_the_memory_leaves_no_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "memory_for_packs", lambda: 1000)
    with pytest.raises(RunError, match="one cell needs about"):
        run_sweep(SweepConfig.from_tokens([*DILEMMA, "steps=140"]), tmp_path / "out", wandb="disabled", quiet=True)
    assert not (tmp_path / "out").exists()


def test_unknown_wandb_mode_leaves_no_directory(tmp_path):
    with pytest.raises(UsageError, match=r"'ofline'.*did you mean 'offline'"):
        run_sweep(SweepConfig.from_tokens([*DILEMMA, "steps=140"]), tmp_path / "out", wandb="ofline", quiet=True)
    assert not (tmp_path / "out").exists()


def test_another_configuration_is_refused(big):
    config, out, _, _ = big
    changed = SweepConfig.from_mapping({**config.to_mapping(), "env.dilemma_strength": [0.1]})
    with pytest.raises(UsageError, match=r"another configuration: env\.dilemma_strength was \[0\.05, .*now \[0\.1\]"):
        run_sweep(changed, out, wandb="disabled", quiet=True, resume=True)
    with pytest.raises(UsageError, match="another configuration: steps was 140, now 240"):
        run_sweep(SweepConfig.from_mapping({**config.to_mapping(), "steps": 240}), out, wandb="disabled", quiet=True)


def test_foreign_directory_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and not a run of marl-bench"):
        run_sweep(SweepConfig.from_tokens([*DILEMMA, "steps=140"]), tmp_path, wandb="disabled", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# --- NaN -------------------------------------------------------------------------------------------------


def test_nan_stops_the_run_and_names_cell_and_leaf(tmp_path, monkeypatch):
    tokens = ["env=test_sweep:Poisoned", *LEARNER, "env.poison=1000000,50", "seeds=2", "steps=120", "log_every=20"]
    config = SweepConfig.from_tokens(tokens)
    out, sink = tmp_path / "out", Stub()
    monkeypatch.setattr(sweep, "make_sinks", lambda *_, **__: [sink])
    with pytest.raises(RunError) as caught:
        run_sweep(config, out, quiet=True, checkpoint_seconds=0)
    # Step 50 is played in the third chunk (updates 11 to 15); the first of its two bad cells is cell 2.
    failed = out / "failed" / "step-000000015"
    assert str(caught.value) == (
        f"NaN or infinity in metric loss of cell 2 (and 1 more) (env.poison=50, seed=0) by update 15; state saved in "
        f"{failed}, earlier checkpoints are intact"
    )
    assert [name for name, _ in sink.calls] == ["start", "log", "log", "log", "finish"] and sink.calls[-1][1] is None
    bad, metadata, _ = checkpoint.restore_raw(out / "failed")
    weights = ".params['network'][0]['w']"
    assert np.isfinite(bad[weights]).all(axis=(1, 2, 3)).tolist() == [True, True, False, False]
    assert metadata["cells"] == [0, 1, 2, 3]
    good, _, done = checkpoint.restore_raw(out / "checkpoints" / "pack-0000")
    assert done == 10 and all(np.isfinite(leaf).all() for leaf in good.values())
    metrics = RunDirectory(out).read_metrics()
    assert set(metrics["updates"]) == {5, 10} and np.isfinite(metrics.to_numpy()).all()
    assert RunDirectory(out).state == "resumable"


def test_nan_is_reported_when_the_disk_is_full_too(tmp_path, monkeypatch):
    tokens = ["env=test_sweep:Poisoned", *LEARNER, "env.poison=1000000,50", "seeds=2", "steps=120", "log_every=60"]
    monkeypatch.setattr(sweep, "make_sinks", lambda *_, **__: [])
    full = RunError("disk full")

    def refuse(*_, **__):
        raise full

    monkeypatch.setattr(checkpoint, "save", refuse)
    with pytest.raises(RunError, match=r"NaN .* of cell 2 .* could not be saved \(disk full\)"):
        run_sweep(SweepConfig.from_tokens(tokens), tmp_path / "out", quiet=True)


def test_first_bad_leaf_names_parameters():
    state = type("State", (), {})()
    state.params = {"count": jnp.zeros(2, jnp.int32), "w": [jnp.ones((2, 3)), jnp.ones((2, 3)).at[1, 2].set(jnp.inf)]}
    metrics = {"loss": np.array([0.5, 0.5])}
    assert first_bad_leaf(state, metrics, 1) == "params['w'][1]"
    assert first_bad_leaf(state, {"loss": np.array([0.5, np.nan])}, 1) == "metric loss"


# --- a plug-in -------------------------------------------------------------------------------------------


def test_plug_in_sweeps_over_its_own_fields_in_one_pack(tmp_path, monkeypatch):
    sink = Stub()
    monkeypatch.setattr(sweep, "make_sinks", lambda *_, **__: [sink])
    tokens = ["env=tragedy_env:Tragedy", "env.regrowth=0.2,0.9", "env.upkeep=0.05,0.3", "seeds=2"]
    kept = [token for token in LEARNER if "evaluation_steps" not in token]
    config = SweepConfig.from_tokens([*kept, *tokens, "learner.evaluation_steps=60", "steps=180", "log_every=60"])
    results = run_sweep(config, tmp_path / "out", quiet=True)
    info = sink.calls[0][1]
    assert (info.num_cells, info.cells, info.steps, info.first_step) == (8, list(range(8)), 180, 0)
    assert sum(name == "start" for name, _ in sink.calls) == 1 and sink.calls[-1][0] == "finish"
    assert set(results["env.upkeep"]) == {0.05, 0.3} and set(results["env.regrowth"]) == {0.2, 0.9}
    assert set(results["updates"]) == {30} and set(results["agent_steps"]) == {180 * 3}
    # 60 steps are three episodes of 20 days; the first counts as begun before the evaluation.
    assert set(results["episodes"]) == {2.0}
    np.testing.assert_allclose(results["return_sum"], 3 * results["return_mean_per_agent"], rtol=1e-5)
    # One animal more costs 0.25 more, with equal weights at first and equal seeds: returns must differ by upkeep.
    cheap, dear = (results[results["env.upkeep"] == upkeep]["return_sum"].to_numpy() for upkeep in (0.05, 0.3))
    assert (cheap > dear).all()
    slow, fast = (results[results["env.regrowth"] == rate]["stock"].to_numpy() for rate in (0.2, 0.9))
    assert (fast > slow).all()


def test_names_are_public():
    assert marl_bench.run_sweep is run_sweep
