"""Sinks copy metrics; whatever happens to them, the training neither fails nor waits."""

import io
import logging
import sys
import threading
import types

import pandas as pd
import pytest

from marl_bench.errors import UsageError
from marl_bench.runtime.run_directory import RunDirectory
from marl_bench.runtime.sinks import ConsoleSink, PackInfo, WandbSink, duration, make_sinks

PACK = PackInfo(index=2, num_cells=2, cells=[4, 5], first_step=0, steps=100)
RESULTS = pd.DataFrame({"cell": [4, 5], "seed": [0, 1], "name": ["a", None], "score": [1.0, float("nan")]})


def rows(step):
    return pd.DataFrame({"cell": [4, 5], "env_steps": step, "updates": step, "loss": [1.0, 3.0]})


class FakeRun:
    def __init__(self, options):
        self.options, self.logged, self.finished = options, [], False

    def log(self, values, step=None):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


def fake_wandb(monkeypatch, init=None, run_type=FakeRun):
    runs = []

    def default_init(**options):
        runs.append(run_type(options))
        return runs[-1]

    module = types.ModuleType("wandb")
    module.__dict__.update(
        init=init or default_init,
        Settings=lambda **options: options,
        Table=lambda **content: content,
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def sink(tmp_path, mode="offline", per_cell=False, **options):
    return WandbSink(mode, per_cell, directory=tmp_path, digest="ab" * 32, config={"env.side": [3]}, **options)


def play(target, steps=(10, 20)):
    target.start(PACK)
    for step in steps:
        target.log(rows(step))
    target.finish(RESULTS)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_one_run_per_pack_with_means_and_a_table(tmp_path, monkeypatch, caplog):
    runs = fake_wandb(monkeypatch)
    play(sink(tmp_path))
    (run,) = runs
    assert run.options["id"] == "ab" * 8 + "-p0002"
    assert (run.options["mode"], run.options["resume"], run.options["dir"]) == ("offline", "allow", str(tmp_path))
    assert run.options["config"] == {"env.side": [3], "pack": 2, "cells_in_pack": 2, "digest": "ab" * 32}
    assert run.logged[:2] == [(s, {"env_steps": s, "updates": s, "loss": 2.0}) for s in (10, 20)]
    table = run.logged[2][1]["cells"]
    assert table["columns"] == list(RESULTS.columns)
    assert table["data"] == [[4, 0, "a", 1.0], [5, 1, None, None]]
    assert run.finished and not warnings(caplog)


def test_one_run_per_cell_on_request_comes_from_the_files(tmp_path, monkeypatch):
    runs = fake_wandb(monkeypatch)
    directory = RunDirectory(tmp_path)
    directory.append_metrics(0, rows(5))
    directory.append_metrics(1, rows(10))
    play(sink(tmp_path, per_cell=True), steps=(10,))
    assert [run.options["id"] for run in runs] == [
        "ab" * 8 + suffix for suffix in ("-p0002", "-p0002-c000004", "-p0002-c000005")
    ]
    assert [(step, values["loss"]) for step, values in runs[2].logged] == [(5, 3.0), (10, 3.0)]
    assert runs[1].options["config"]["score"] == 1.0
    assert all(run.finished for run in runs)


def test_a_stopped_pack_closes_its_run_without_a_table(tmp_path, monkeypatch):
    runs = fake_wandb(monkeypatch)
    target = sink(tmp_path, per_cell=True)
    target.start(PACK)
    target.log(rows(10))
    target.finish(None)
    assert len(runs) == 1 and runs[0].finished and len(runs[0].logged) == 1


class FailingLog(FakeRun):
    def log(self, values, step=None):
        raise ConnectionError("server answered\n500")


class FailingFinish(FakeRun):
    def finish(self):
        raise RuntimeError("cannot sync")


def failing_init(**options):
    raise OSError("no network")


def exiting_init(**options):
    raise SystemExit(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init": failing_init}, "no network"),
        ({"init": exiting_init}, "failed"),
        ({"run_type": FailingLog}, "server answered 500"),
        ({"run_type": FailingFinish}, "cannot sync"),
    ],
)
def test_every_failure_is_one_warning(tmp_path, monkeypatch, caplog, options, words):
    fake_wandb(monkeypatch, **options)
    target = sink(tmp_path)
    play(target)
    play(target)
    assert len(warnings(caplog)) == 1
    assert words in warnings(caplog)[0] and "the run goes on" in warnings(caplog)[0]


def test_missing_package_says_what_to_install(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    play(sink(tmp_path))
    assert warnings(caplog) == [
        "W&B: not installed (pip install wandb, or --wandb disabled); the run goes on, its files are complete"
    ]


def test_hanging_client_never_holds_the_training(tmp_path, monkeypatch, caplog):
    release = threading.Event()
    fake_wandb(monkeypatch, init=lambda **options: release.wait())
    target = sink(tmp_path, queue_size=2, finish_timeout=0.05)
    play(target, steps=range(1, 10))
    assert warnings(caplog) == [
        "W&B: it is too slow or hangs; metrics are no longer sent; the run goes on, its files are complete"
    ]
    caplog.clear()
    target = sink(tmp_path, finish_timeout=0.05)
    play(target)
    assert len(warnings(caplog)) == 1 and "did not finish within 0.05 s" in warnings(caplog)[0]
    release.set()


def test_disabled_imports_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    before = set(threading.enumerate())
    play(sink(tmp_path, mode="disabled"))
    # Threads of earlier tests may end meanwhile; none may begin.
    assert set(threading.enumerate()) <= before and not warnings(caplog)


def test_mode_is_checked_before_the_start(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'offline'"):
        sink(tmp_path, mode="ofline")


def test_real_client_offline_needs_no_network_and_no_account(tmp_path, monkeypatch, caplog):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://192.0.2.1")
    play(sink(tmp_path))
    assert not warnings(caplog)
    assert list(tmp_path.glob(f"wandb/offline-run-*-{'ab' * 8}-p0002/run-*.wandb"))


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_plain_lines_when_not_a_terminal():
    stream, clock = io.StringIO(), Clock()
    console = ConsoleSink(stream, interval=10.0, clock=clock)
    console.start(PACK)
    clock.now += 5
    console.log(rows(10))
    clock.now += 5
    console.log(rows(20))
    clock.now += 55
    console.finish(RESULTS)
    assert stream.getvalue().splitlines() == [
        "pack 2, 2 cells: 0 of 100 steps",
        "pack 2: 20 of 100 steps, 4 steps/s, 40s left",
        "pack 2: done at 20 steps after 1m05s",
    ]


def test_resumed_pack_counts_only_its_own_steps():
    stream, clock = io.StringIO(), Clock()
    console = ConsoleSink(stream, interval=0.0, clock=clock)
    console.start(PackInfo(0, 2, [0, 1], 80, 100))
    clock.now += 10
    console.log(rows(90))
    console.finish(None)
    assert stream.getvalue().splitlines()[1:] == [
        "pack 0: 90 of 100 steps, 2 steps/s, 10s left",
        "pack 0: stopped at 90 steps after 10s",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_on_a_terminal():
    stream, clock = Terminal(), Clock()
    console = ConsoleSink(stream, clock=clock)
    console.start(PACK)
    clock.now += 10
    console.log(rows(50))
    console.finish(RESULTS)
    assert "pack 2, 2 cells" in stream.getvalue()
    assert "50%" in stream.getvalue() and "10 steps/s" in stream.getvalue() and "10s left" in stream.getvalue()


def test_closed_stream_does_not_end_the_training():
    stream = io.StringIO()
    console = ConsoleSink(stream)
    stream.isatty = lambda: False
    console.start(PACK)
    stream.close()
    console.finish(RESULTS)
    assert stream.closed


def test_duration():
    assert [duration(s) for s in (-1, 0.4, 59.4, 60, 3599, 3600, 7620)] == [
        "0s",
        "0s",
        "59s",
        "1m00s",
        "59m59s",
        "1h00m",
        "2h07m",
    ]


def test_make_sinks(tmp_path):
    class Config:
        def digest(self):
            return "0" * 64

        def to_mapping(self):
            return {}

    kinds = [type(s) for s in make_sinks(tmp_path, Config(), wandb="disabled")]
    assert kinds == [ConsoleSink, WandbSink]
    assert [type(s) for s in make_sinks(tmp_path, Config(), quiet=True)] == [WandbSink]
