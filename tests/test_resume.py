"""Stopping at any moment, by signal or by `kill -9`, and going on: the end is the same, bit for bit."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from marl_bench.errors import RunError, UsageError
from marl_bench.experiments import sweep
from marl_bench.experiments.cells import SweepConfig, expand
from marl_bench.experiments.sweep import Interrupted, run_sweep
from marl_bench.runtime import checkpoint
from marl_bench.runtime.packs import make_packs
from marl_bench.runtime.run_directory import RunDirectory, to_parquet
from marl_bench.runtime.runner import PackRunner

# Three cells on two devices, so one is repeated to fill the devices; a logged point every 4 updates.
TOKENS = [
    "env=network_dilemma",
    "learner=dqn",
    "env.side=4",
    "env.dilemma_strength=0.1,0.2,0.3",
    "learner.hidden_sizes=(8,)",
    "learner.batch_size=8",
    "learner.buffer_steps=20",
    "learner.evaluation_steps=20",
    "learner.target_period=40",
    "log_every=16",
]
LONG = [*TOKENS, "steps=3220"]  # 200 logged points, each a checkpoint below
SHORT = [*TOKENS, "steps=180"]  # 10 logged points


def outcome(out: Path, packs: int = 1) -> dict[str, bytes]:
    """Everything that must be equal, as bytes: final state, metrics (all parts joined), results."""
    folder = RunDirectory(out)
    found = {"metrics": to_parquet(folder.read_metrics()), "results": (out / "results.parquet").read_bytes()}
    for pack in range(packs):
        arrays, _, done = checkpoint.restore_raw(folder.checkpoint_directory(pack))
        found.update({f"{pack}{name}": array.tobytes() for name, array in arrays.items()})
        found[f"{pack} updates"] = str(done).encode()
    assert f"{packs}" not in {name[0] for name in found} and "0.params['network'][0]['w']" in found
    return found


def same(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Names of what differs."""
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def flip(path: Path, where: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 0xFF
    path.write_bytes(data)


class Stopper:
    """A sink that sends this process a signal after so many logged points (all packs counted)."""

    def __init__(self, points: int, number: int = signal.SIGTERM):
        self.left, self.number, self.finished = points, number, []

    def start(self, pack_info):
        pass

    def log(self, rows):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)

    def finish(self, results):
        self.finished.append(results)


def stop_after(
    monkeypatch, points: int, tokens: list[str], out: Path, number: int = signal.SIGTERM, seconds: float = 0
) -> Interrupted:
    """Run `tokens` (by default with a checkpoint at every point) until a signal arrives in point number `points`."""
    sink = Stopper(points, number)
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "make_sinks", lambda *_, **__: [sink])
        with pytest.raises(Interrupted) as caught:
            run_sweep(SweepConfig.from_tokens(tokens), out, quiet=True, checkpoint_seconds=seconds)
    assert sink.finished[-1] is None
    return caught.value


def resume(tokens: list[str], out: Path):
    return run_sweep(SweepConfig.from_tokens(tokens), out, resume=True, wandb="disabled", quiet=True)


def uninterrupted(tokens: list[str], out: Path) -> dict[str, bytes]:
    """The same run, never stopped, with one checkpoint at its end."""
    run_sweep(SweepConfig.from_tokens(tokens), out, wandb="disabled", quiet=True, checkpoint_seconds=1e9)
    assert list(RunDirectory(out).parts()) == [0]
    return outcome(out)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Outcome of the short run."""
    return uninterrupted(SHORT, tmp_path_factory.mktemp("short") / "out")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The short run, stopped by SIGTERM after six of its ten points; do not change it, copy it."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.MonkeyPatch.context() as patch:
        assert stop_after(patch, 6, SHORT, out).code == 143
    return out


@pytest.fixture
def copy(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "copy"))


# --- kill -9 ---------------------------------------------------------------------------------------------


def run_in_child(tokens: list[str], out: Path, cache: str) -> None:
    """What a process that will be killed does; the library has been imported before it was forked."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    config = SweepConfig.from_tokens(tokens)
    run_sweep(config, out, resume=True, wandb="disabled", quiet=True, checkpoint_seconds=0)


@pytest.fixture(scope="module")
def launch():
    """Start a run in a process of its own, forked by a server that has imported everything once."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["marl_bench.experiments.sweep", "pytest", "safetensors.numpy", __name__])

    def start(tokens: list[str], out: Path) -> Any:
        process = server.Process(target=run_in_child, args=(tokens, out, jax.config.jax_compilation_cache_dir))
        process.start()
        return process

    return start


def wait_for(process: Any, condition) -> None:
    while not condition():
        assert process.is_alive(), f"ended too early with exit code {process.exitcode}; its errors are on stderr"
        time.sleep(0.002)


def newest_step(out: Path) -> int:
    folder = out / "checkpoints" / "pack-0000"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name[5:]) for name in names if name.startswith("step-")), default=0)


def test_ten_kills_leave_no_trace(tmp_path, launch):
    """Two kills at a random moment since the start, wherever that is, eight after random progress."""
    expected = uninterrupted(LONG, tmp_path / "calm")
    out, draw, reached = tmp_path / "killed", random.Random(9), []
    for number in range(10):
        process, before = launch(LONG, out), newest_step(out)
        try:
            if number in (0, 5):
                time.sleep(draw.uniform(0.1, 1.0))
            else:
                goal = before + 4 * draw.randint(1, 10)
                wait_for(process, lambda goal=goal: newest_step(out) >= goal)
                time.sleep(draw.uniform(0.0, 0.03))
            if number == 3:
                with pytest.raises(RunError, match=f"in use by process {process.pid} on"):
                    resume(LONG, out)
            assert process.is_alive()
        finally:
            process.kill()
            process.join()
        assert process.exitcode == -signal.SIGKILL
        reached.append(newest_step(out))
    # Eight kills hit a training that had moved on since the one before, and none hit its end.
    assert len({step for step in reached if step > 0}) >= 8 and max(reached) < 800
    assert not (out / "results.parquet").exists()
    process = launch(LONG, out)
    process.join()
    assert process.exitcode == 0
    assert not same(outcome(out), expected)
    assert len(RunDirectory(out).parts()) == 200


# --- signals ---------------------------------------------------------------------------------------------


def test_sigterm_saves_and_a_resumed_run_is_the_same(short, copy):
    assert newest_step(copy) == 24 and RunDirectory(copy).state == "resumable"
    with pytest.raises(UsageError, match="holds an unfinished run; add --resume"):
        run_sweep(SweepConfig.from_tokens(SHORT), copy, wandb="disabled", quiet=True)
    resume(SHORT, copy)
    assert not same(outcome(copy), short)
    # What this process did: the four points after the stop, and the evaluation.
    assert RunDirectory(copy).read_summary()["trained_cell_steps"] == 3 * (4 * 16 + 20)


def test_interrupt_from_the_keyboard(monkeypatch, short, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    # No checkpoint is due by the clock: the signal alone makes one.
    stop = stop_after(monkeypatch, 3, SHORT, tmp_path / "out", signal.SIGINT, seconds=1e9)
    assert stop.code == 130 and str(stop) == "stopped by SIGINT; continue with --resume"
    assert signal.getsignal(signal.SIGINT) is before and newest_step(tmp_path / "out") == 12
    resume(SHORT, tmp_path / "out")
    assert not same(outcome(tmp_path / "out"), short)


def test_signal_in_the_last_chunk_leaves_only_the_evaluation(monkeypatch, short, tmp_path):
    assert stop_after(monkeypatch, 10, SHORT, tmp_path / "out").code == 143
    assert newest_step(tmp_path / "out") == 40 and not (tmp_path / "out" / "results.parquet").exists()
    resume(SHORT, tmp_path / "out")
    assert not same(outcome(tmp_path / "out"), short)


def test_command_line_exit_code(tmp_path, short):
    """SIGTERM to the real command: exit code 143, one line, and `--resume` without further words goes on."""
    cache = Path(__file__).parent.parent / ".jax_cache"
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, "-m", "marl_bench", "run", "--out", str(tmp_path / "out"), "--wandb", "disabled"]
    process = subprocess.Popen([*command, *LONG], env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None and process.stdout is not None
        assert process.stdout.readline().startswith("plan: 3 cells in 1 pack")
        assert process.stderr.readline() == "pack 0, 3 cells: 0 of 3220 steps\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    assert errors.splitlines()[-1] == "marl-bench: stopped by SIGTERM; continue with --resume"
    assert newest_step(tmp_path / "out") >= 4


# --- damage ----------------------------------------------------------------------------------------------


def test_damaged_checkpoint_falls_back_to_the_one_before(short, copy, caplog):
    flip(copy / "checkpoints" / "pack-0000" / "step-000000024" / "state.safetensors")
    resume(SHORT, copy)
    assert "step-000000024" in caplog.text and "falling back to the checkpoint before it" in caplog.text
    assert RunDirectory(copy).read_summary()["trained_cell_steps"] == 3 * (5 * 16 + 20)
    assert not same(outcome(copy), short)


def test_without_any_intact_checkpoint_training_starts_again(short, copy, caplog):
    for path in (copy / "checkpoints" / "pack-0000").iterdir():
        flip(path / "manifest.json")
    resume(SHORT, copy)
    assert caplog.text.count("falling back") == 2
    assert RunDirectory(copy).read_summary()["trained_cell_steps"] == 3 * 180
    assert not same(outcome(copy), short)


@pytest.mark.parametrize("damage", [flip, functools.partial(flip, where=0.1), Path.unlink])
def test_lost_metrics_part_is_computed_again(short, copy, caplog, damage):
    assert list(RunDirectory(copy).parts()) == list(range(6))
    damage(RunDirectory(copy).part_path(2))
    resume(SHORT, copy)
    assert "part-00002.parquet: missing or damaged; going on from a checkpoint before it" in caplog.text
    assert not same(outcome(copy), short)


def test_a_damaged_last_part_costs_one_checkpoint_only(short, copy, caplog):
    """The checkpoint before the last refers only to intact parts: training goes on from there, not from zero."""
    flip(RunDirectory(copy).part_path(5))
    resume(SHORT, copy)
    assert "part-00005.parquet: missing or damaged" in caplog.text
    assert 0 < RunDirectory(copy).read_summary()["trained_cell_steps"] < 3 * 180
    assert not same(outcome(copy), short)


def test_metrics_written_after_the_checkpoint_are_dropped(short, copy):
    folder = RunDirectory(copy)
    for number in (6, 8):
        folder.append_metrics(number, folder.read_metrics().assign(loss=np.float32(123)))
    resume(SHORT, copy)
    assert not same(outcome(copy), short)


def test_checkpoint_of_other_cells_is_not_used(short, copy, caplog):
    directory = copy / "checkpoints" / "pack-0000"
    runner = PackRunner(make_packs(expand(SweepConfig.from_tokens(SHORT)))[0])
    found = checkpoint.restore(directory, runner.template())
    assert found is not None
    state, metadata, step = found
    checkpoint.save(directory, step, state, {**metadata, "cells": [2, 1, 0]})
    resume(SHORT, copy)
    assert "a checkpoint of other cells; ignored" in caplog.text
    assert not same(outcome(copy), short)


# --- other circumstances on resume -------------------------------------------------------------------------


def test_resumed_on_another_number_of_devices(monkeypatch, short, copy):
    """The repeated cell is no part of the checkpoint; only the order of float32 sums may differ then."""
    monkeypatch.setattr(sweep, "PackRunner", functools.partial(PackRunner, devices=jax.devices()[:1]))
    resume(SHORT, copy)
    arrays, _, _ = checkpoint.restore_raw(copy / "checkpoints" / "pack-0000")
    assert {len(array) for array in arrays.values()} == {3}
    for name, array in arrays.items():
        expected = np.frombuffer(short[f"0{name}"], array.dtype).reshape(array.shape)
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Four cells, two packs of two because of the memory, stopped in the second; and the same never stopped."""
    tokens = [*SHORT, "seeds=2"]
    tokens[3] = "env.dilemma_strength=0.1,0.2"
    one = make_packs(expand(SweepConfig.from_tokens(tokens)))[0].bytes_per_cell
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "memory_for_packs", lambda: int(one * 2 / 0.8) + 1)
        calm, out = (tmp_path_factory.mktemp("split") / name for name in ("calm", "out"))
        run_sweep(SweepConfig.from_tokens(tokens), calm, wandb="disabled", quiet=True)
        stop_after(patch, 13, tokens, out)
    return tokens, outcome(calm, packs=2), out


def test_packs_stay_as_planned_when_memory_changes(split, tmp_path):
    tokens, expected, out = split
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    resume(tokens, copy)  # all four cells fit into one pack now
    assert not same(outcome(copy, packs=2), expected)
    cells = RunDirectory(copy).read_cells()
    assert cells["pack"].tolist() == [0, 0, 1, 1] and cells["row"].tolist() == [0, 1, 0, 1]
    assert RunDirectory(copy).read_summary()["trained_cell_steps"] == 2 * (7 * 16 + 20)


@pytest.mark.parametrize("victim", ["metrics/part-00004.parquet", "packs/pack-0000.parquet"])
def test_a_finished_pack_is_repaired_without_touching_the_next(split, tmp_path, caplog, victim):
    tokens, expected, out = split
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    later = {path: path.read_bytes() for path in (copy / "metrics").glob("part-1*.parquet")}
    assert len(later) == 3
    flip(copy / victim)
    resume(tokens, copy)
    assert f"{victim}: missing or damaged" in caplog.text
    assert not same(outcome(copy, packs=2), expected)
    assert all(path.read_bytes() == data for path, data in later.items())
