"""The command: exit codes, one-line errors, and that looking for help starts nothing."""

import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest
from flax import struct

from marl_bench import Environment, Learner, __version__, cli, field, registry
from marl_bench.errors import RunError, UsageError
from marl_bench.runtime import devices


@struct.dataclass
class World(Environment):
    """A world for these tests.

    More.
    """

    side: int = field(3, static=True, doc="lattice side L", unit="agents")
    drift: float | jax.Array = field(0.5, doc="drift per step")


@struct.dataclass
class Rule(Learner):
    """A learner for these tests."""

    double: bool = field(True, static=True, doc="two networks")


RUN = ["run", "env=cli_test_world", "learner=cli_test_learner"]


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(cli, "prepare_jax", lambda: None)
    monkeypatch.setitem(registry._REGISTERED["environment"], "cli_test_world", World)
    monkeypatch.setitem(registry._REGISTERED["learner"], "cli_test_learner", Rule)

    def call(*arguments):
        code = cli.main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def sweeps(monkeypatch):
    """Replace the sweep runner; returns the list of its calls."""
    calls = []

    class Interrupted(Exception):
        code = 143

    module = types.ModuleType("marl_bench.experiments.sweep")
    module.__dict__.update(run_sweep=lambda *a, **k: calls.append((a, k)), Interrupted=Interrupted)
    monkeypatch.setitem(sys.modules, "marl_bench.experiments.sweep", module)
    return calls, module


def test_run_passes_everything_on(command, sweeps, tmp_path):
    calls, _ = sweeps
    out = tmp_path / "ein Lauf"
    arguments = [*RUN, "env.drift=0.1,0.25", "seeds=2", "--out", str(out), "--resume", "--wandb", "disabled", "--quiet"]
    assert command(*arguments) == (0, "", "")
    ((config, path), options) = calls[0]
    assert config.environment_fields == {"drift": [0.1, 0.25]} and config.seeds == [0, 1]
    assert path == out
    assert options == {"resume": True, "wandb": "disabled", "wandb_cells": False, "quiet": True}


def test_run_defaults_and_experiment_file(command, sweeps, tmp_path):
    calls, _ = sweeps
    path = tmp_path / "config.yaml"
    path.write_text("env: cli_test_world\nlearner: cli_test_learner\nseeds: 3\n")
    assert command("run", str(path), "env.side=4", "--out", str(tmp_path))[0] == 0
    assert calls[0][0][0].environment_fields == {"side": [4]}
    assert calls[0][1] == {"resume": False, "wandb": "offline", "wandb_cells": False, "quiet": False}
    assert command("run", "--resume", "--out", str(tmp_path))[0] == 0
    assert calls[1][0][0].seeds == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rn"], 'Did you mean "run"'),
        (["run"], "--out"),
        ([*RUN, "--out", "x", "--wandb", "sometimes"], '"offline"'),
        ([*RUN, "--out", "x", "--colour"], "--colour"),
        ([*RUN, "env.sde=1", "--out", "x"], "did you mean 'side'"),
        ([*RUN, "env.side=1.5", "--out", "x"], "env.side=1.5: must be an integer"),
        (
            ["run", "env=cli_test_wrld", "learner=cli_test_learner", "env.a=1", "--out", "x"],
            "did you mean 'cli_test_world'",
        ),
        ([*RUN, "seeds=0", "--out", "x"], "number of seeds"),
        (["bench", "dqn", "--packs", "1,x"], "--packs 1,x: must be positive integers"),
        (["bench", "dqn", "--packs", "0"], "--packs 0"),
        (["list", "games"], '"envs"'),
        (["reproduce", "exploration_colapse", "--out", "x"], "did you mean 'exploration_collapse'"),
        (["check", "cli_test_world", "sid=3"], "did you mean 'side'"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(command, sweeps, monkeypatch, arguments, words):
    from marl_bench.experiments import papers

    monkeypatch.setattr(papers, "PAPERS", {"exploration_collapse": "How exploration breaks cooperation"}, raising=False)
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("marl-bench: error: ") and err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("side=0: must be\n>= 1"), 2, "error: side=0: must be >= 1"),
        (RunError("x: disk full"), 1, "error: x: disk full"),
        (KeyError("w"), 1, "internal error: KeyError: 'w', run again with --debug for the traceback"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(command, sweeps, tmp_path, error, code, words):
    def failing(*arguments, **options):
        raise error

    sweeps[1].run_sweep = failing
    found, out, err = command(*RUN, "--out", str(tmp_path))
    assert (found, out) == (code, "")
    assert words in err and err.count("\n") == 1 and "Traceback" not in err
    found, _, err = command(*RUN, "--debug", "--out", str(tmp_path))
    assert found == code and "Traceback" in err and "in failing" in err


def test_a_signal_that_saved_the_run_keeps_its_exit_code(command, sweeps, tmp_path):
    def stopped(*arguments, **options):
        raise sweeps[1].Interrupted("stopped by SIGTERM; continue with --resume")

    sweeps[1].run_sweep = stopped
    assert command(*RUN, "--out", str(tmp_path)) == (
        143,
        "",
        "marl-bench: stopped by SIGTERM; continue with --resume\n",
    )


def test_check_prints_sentences(command, monkeypatch):
    found = []
    module = types.ModuleType("marl_bench.check")
    module.__dict__["check_environment"] = lambda environment: (
        found + [f"side is {environment.side}"] * (environment.side == 4)
    )
    monkeypatch.setitem(sys.modules, "marl_bench.check", module)
    assert command("check", "cli_test_world", "side=4") == (1, "side is 4\n", "")
    assert command("check", "cli_test_world") == (0, "cli_test_world: no faults found\n", "")
    # As in the other commands, too.
    assert command("check", "env=cli_test_world", "env.side=4") == (1, "side is 4\n", "")


def test_check_imports_from_the_current_directory(command, monkeypatch, tmp_path):
    module = types.ModuleType("marl_bench.check")
    module.__dict__["check_environment"] = lambda environment: [type(environment).__name__]
    monkeypatch.setitem(sys.modules, "marl_bench.check", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "plugin_in_the_current_directory.py").write_text(
        "from flax import struct\nfrom marl_bench import Environment\n"
        "@struct.dataclass\nclass Mine(Environment):\n  a: int = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    assert command("check", "plugin_in_the_current_directory:Mine") == (1, "Mine\n", "")


def test_reproduce_and_bench_pass_on(command, sweeps, monkeypatch, tmp_path):
    from marl_bench import experiments
    from marl_bench.experiments import papers

    calls = []
    paper = types.ModuleType("marl_bench.experiments.papers.a_paper")
    paper.__dict__["reproduce"] = lambda *a, **k: calls.append((a, k)) or 1
    benchmarks = types.ModuleType("marl_bench.experiments.bench")
    benchmarks.__dict__["main"] = lambda *a: calls.append(a) or 0
    monkeypatch.setattr(papers, "PAPERS", {"a_paper": "A paper"}, raising=False)
    monkeypatch.setitem(sys.modules, "marl_bench.experiments.papers.a_paper", paper)
    monkeypatch.setitem(sys.modules, "marl_bench.experiments.bench", benchmarks)
    monkeypatch.setattr(experiments, "bench", benchmarks, raising=False)
    assert command("reproduce", "a_paper", "--scale", "reduced", "--out", str(tmp_path))[0] == 1
    assert command("bench", "dqn", "--packs", "1,4")[0] == 0
    assert command("list", "papers") == (0, "a_paper: A paper\n", "")
    assert calls == [(("reduced", tmp_path), {"resume": False, "wandb": "offline"}), ("dqn", [1, 4], None)]


def test_list_shows_every_field(command):
    code, out, _ = command("list", "envs")
    assert code == 0
    block = out[out.index("cli_test_world") :].split("\n\n")[0].splitlines()
    assert block == [
        "cli_test_world: A world for these tests.",
        "  env.side=3 [agents] (an integer; static) lattice side L",
        "  env.drift=0.5 (a number; leaf) drift per step",
    ]
    assert "  learner.double=true (true or false; static) two networks" in command("list", "learners")[1]


def test_list_is_a_table_on_a_terminal(command):
    import io

    from marl_bench import listing

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    listing.print_classes("learner", stream)
    assert "learner.double" in stream.getvalue() and "─" in stream.getvalue()


def test_doctor(command):
    code, out, _ = command("doctor")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert {"python", "jax", "jaxlib", "flax", "optax", "numpy", "cpu", "device", "compile", "extras"} <= set(names)
    assert f"jax           {jax.__version__}" in out and "GiB free of" in out


STARTUP = """
import io, contextlib, os, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") or (
    event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+") and args[0] != os.devnull) else None)
from marl_bench import cli
out = io.StringIO()
with contextlib.redirect_stdout(out):
    codes = [cli.main([*command, "--help"]) for command in ([], ["run"], ["reproduce"], ["check"])]
    codes.append(cli.main(["--version"]))
heavy = [m for m in ("jax", "numpy", "pandas", "pyarrow", "flax", "wandb", "matplotlib", "jumanji") if m in sys.modules]
print(codes, heavy, opened, out.getvalue().splitlines()[-1])
"""


def test_help_imports_nothing_heavy_and_touches_nothing(tmp_path):
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STARTUP], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.strip() == f"[0, 0, 0, 0, 0] [] [] {__version__}", done.stderr


def test_the_module_runs_as_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "marl_bench", "list", "gmes"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("marl-bench: error:") and done.stderr.count("\n") == 1


# --- devices -------------------------------------------------------------------------------------------


def configured_cache():
    return jax.config.values["jax_compilation_cache_dir"]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(devices, "_warned", set())
    before = configured_cache()
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "marl-bench" / "jax"
    jax.config.update("jax_compilation_cache_dir", before)


def test_cache_is_private(cache):
    assert devices.enable_compile_cache() == cache
    assert configured_cache() == str(cache)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert f"{cache} (0 files" in devices.doctor()
    assert devices.enable_compile_cache() == cache


@pytest.mark.parametrize("which", ["own", "parent"])
def test_cache_that_others_can_write_is_not_used(cache, caplog, which):
    cache.mkdir(parents=True)
    (cache if which == "own" else cache.parent).chmod(0o777)
    assert devices.enable_compile_cache() is None and devices.enable_compile_cache() is None
    assert configured_cache() is None
    assert len(caplog.records) == 1 and "others can write to" in caplog.text


def test_cache_of_another_user_is_not_used(cache, caplog, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert devices.enable_compile_cache() is None
    assert "belongs to another user" in caplog.text


def test_cache_that_cannot_be_made_is_not_used(cache, caplog):
    cache.parent.write_text("a file in the way")
    assert devices.enable_compile_cache() is None
    assert "cannot be made" in caplog.text


def test_cache_without_a_home(cache, monkeypatch, caplog):
    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", homeless)
    assert devices.enable_compile_cache() is None
    assert "no home directory" in caplog.text and "no home directory" in devices.doctor()


def test_users_own_cache_setting_is_left_alone(cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert devices.enable_compile_cache() == tmp_path / "mine"


def test_control_groups_limit_memory_and_cores(monkeypatch):
    content = {
        "/proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 800 kB",
        "/proc/self/cgroup": "4:memory:/job\n1:cpu,cpuacct:/job\n0::/slice/job",
        "/sys/fs/cgroup/slice/memory.max": "max",
        "/sys/fs/cgroup/slice/memory.current": "5",
        "/sys/fs/cgroup/slice/job/memory.max": "500000",
        "/sys/fs/cgroup/slice/job/memory.current": "300000",
        "/sys/fs/cgroup/slice/job/memory.stat": "anon 5\ninactive_file 100000",
        "/sys/fs/cgroup/slice/cpu.max": "150000 100000",
    }
    monkeypatch.setattr(devices, "_read", lambda path: content.get(str(path), ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert (devices.free_bytes(), devices.total_bytes()) == (300_000, 500_000)
    assert devices.usable_cores() == 2
    content["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "200000"
    content["/sys/fs/cgroup/memory/memory.usage_in_bytes"] = "50000"
    content["/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us"] = "50000"
    content["/sys/fs/cgroup/cpu/job/cpu.cfs_period_us"] = "100000"
    assert (devices.free_bytes(), devices.total_bytes()) == (150_000, 200_000)
    assert devices.usable_cores() == 1
    content.clear()
    assert (devices.free_bytes(), devices.usable_cores()) == (None, 8)


def test_accelerator_memory_comes_from_the_device():
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 100, "bytes_in_use": 30}

    assert (devices.free_bytes(Device()), devices.total_bytes(Device())) == (70, 100)


CORES = """
import os, jax
from marl_bench.runtime import devices
os.sched_getaffinity = lambda pid: {0, 1, 2}
devices._read = lambda path: ""
print(devices.use_cpu_cores(), len(jax.devices()), devices.use_cpu_cores())
"""


@pytest.mark.parametrize(
    ("extra", "expected"),
    [({}, "3 3 None"), ({"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, "None 2 None")],
)
def test_one_cpu_device_per_core_unless_the_user_chose(extra, expected):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"} | extra
    done = subprocess.run([sys.executable, "-c", CORES], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == expected, done.stderr
