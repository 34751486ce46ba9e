"""The `marl-bench` command. Every command imports what it needs when it runs, so `--help` imports no JAX.

Exit codes: 0 done, 1 the run failed (or `check` found faults), 2 the request was wrong, 128 + N stopped by
signal N (130 for SIGINT, 143 for SIGTERM), the state saved.
A failure is one line on stderr; `--debug` adds the traceback.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from marl_bench import __version__, cli_dataset
from marl_bench.errors import RunError, UsageError

Wandb = Literal["offline", "online", "disabled"]
"""Where W&B records go: files in the run directory, the server, or nowhere."""

app = App(
    name="marl-bench",
    help="JAX-accelerated, vectorised multi-agent reinforcement-learning benchmarks.",
    help_epilogue="Any command takes --debug: print the traceback of a failure.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command(cli_dataset.app)


@app.command
def run(
    *tokens: str,
    out: Path,
    resume: Annotated[bool, Parameter(negative=())] = False,
    wandb: Wandb = "offline",
    wandb_cells: Annotated[bool, Parameter(negative=())] = False,
    quiet: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Train every cell of a sweep.

    TOKENS: env=NAME learner=NAME, env.FIELD=VALUES, learner.FIELD=VALUES, seeds=5 | 195:225 | 3,7,9, steps=N,
    log_every=N, evaluations=N; for offline learners dataset=PATH,... and dataset_shards=N. VALUES: 0.5 | 1,2,3 |
    range(start,stop,step) | choice(a,b) | (64,64). The first token may be a .yaml file with the same keys. With
    --resume and no token, the configuration of --out is used.

    Parameters
    ----------
    tokens
        KEY=VALUE settings, see above.
    out
        Run directory: new, empty, or of an earlier start of the same run.
    resume
        Continue an unfinished run from its last checkpoint.
    wandb
        Where W&B records go.
    wandb_cells
        Also write one W&B run per cell.
    quiet
        No progress on the terminal.
    """
    if not tokens and resume and (out / "config.yaml").is_file():
        tokens = (str(out / "config.yaml"),)
    _import_from_here(tokens)
    prepare_jax()
    from marl_bench.experiments.cells import SweepConfig
    from marl_bench.experiments.sweep import run_sweep

    config = SweepConfig.from_tokens(tokens)

    def train() -> int:
        run_sweep(config, out, resume=resume, wandb=wandb, wandb_cells=wandb_cells, quiet=quiet)
        return 0

    return _until_stopped(train)


@app.command
def reproduce(
    name: str,
    *,
    out: Path,
    scale: Literal["smoke", "reduced", "paper"] = "smoke",
    resume: Annotated[bool, Parameter(negative=())] = False,
    wandb: Wandb = "offline",
) -> int:
    """Reproduce a paper: tables, figures, and a verdict on each of its claims.

    Parameters
    ----------
    name
        A paper of 'marl-bench list papers'.
    out
        Directory of the reproduction.
    scale
        smoke: minutes on a laptop; reduced: about an hour on a CPU; paper: the full protocol.
    resume
        Continue an unfinished reproduction.
    wandb
        Where W&B records go.
    """
    import importlib

    from marl_bench.experiments.papers import PAPERS
    from marl_bench.naming import nearest

    if name not in PAPERS:
        raise UsageError(f"unknown paper {name!r}{nearest(name, PAPERS)} (known: {', '.join(sorted(PAPERS))})")
    prepare_jax()
    module = importlib.import_module(f"marl_bench.experiments.papers.{name}")
    return _until_stopped(lambda: module.reproduce(scale, out, resume=resume, wandb=wandb))


@app.command
def bench(
    name: str,
    *,
    packs: str = "1,10,60",
    against: str = "jumanji,jaxmarl",
    only: str | None = None,
    agents: str = "10000,30000,100000,300000,1000000",
    batch: str | None = None,
    out: Path | None = None,
) -> int:
    """Measure speed: of dqn by pack size, of swarms by their size, of
    the offline learners, or of environments or learners against other packages.

    Parameters
    ----------
    name
        What to measure: dqn, envs, learners, offline or swarms.
    packs
        For dqn: numbers of cells trained at once, separated by commas.
    against
        For envs and learners: other packages, separated by commas (jumanji, jaxmarl; for envs also socialjax).
    only
        For envs, learners and offline names of contests, for swarms of worlds, separated by commas; all, if left out.
    agents
        For swarms: numbers of agents, separated by commas.
    batch
        For envs: numbers of environments stepped at once; 64,1024,8192 (more on an accelerator), if left out.
    out
        File for the figures; the terminal only, if left out.
    """
    sizes = _positive_integers("--packs", packs)
    batches = None if batch is None else _positive_integers("--batch", batch)
    prepare_jax()
    if name == "envs":
        from marl_bench.experiments import bench_envs

        return bench_envs.main(against, only, batches, out)
    if name == "learners":
        from marl_bench.experiments import bench_learners

        return bench_learners.main(against, only, out)
    if name == "swarms":
        from marl_bench.experiments import bench_swarms

        return bench_swarms.main(_positive_integers("--agents", agents), only, out)
    if name == "offline":
        from marl_bench.experiments import bench_offline

        return bench_offline.main(only, out)
    from marl_bench.experiments import bench as benchmarks

    return benchmarks.main(name, sizes, out)


def _positive_integers(option: str, text: str) -> list[int]:
    sizes = [int(word) if word.strip().isdecimal() else 0 for word in text.split(",")]
    if min(sizes) < 1:
        raise UsageError(f"{option} {text}: must be positive integers separated by commas")
    return sizes


@app.command
def render(*tokens: str, out: Path, steps: int | None = None, seed: int = 0, fps: int = 8) -> int:
    """Draw one episode of an environment.

    TOKENS: env=NAME, env.FIELD=VALUE, policy=random | scripted | NAME | RUN_DIR.

    Parameters
    ----------
    tokens
        KEY=VALUE settings, see above.
    out
        The picture: a .gif of the episode, or a .png of one frame.
    steps
        Most steps to draw: 100 for a .gif, 0 (the start) for a .png, if left out.
    seed
        Decides the start and the actions.
    fps
        Frames a second of a .gif.
    """
    _import_from_here(tokens)
    prepare_jax()
    from marl_bench.experiments import render as pictures

    return pictures.main(tokens, out, steps, seed, fps)


@app.command
def check(address: str, /, *fields: str) -> int:
    """Test an environment against the contract and print what it does wrong.

    Parameters
    ----------
    address
        A name of 'marl-bench list envs', or my_package.my_module:MyEnvironment (current directory included); env=NAME
        means the same.
    fields
        FIELD=VALUE settings of the environment; env.FIELD=VALUE means the same.
    """
    address = address.removeprefix("env=")
    _import_from_here([f"env={address}"])
    from marl_bench.check import check_environment
    from marl_bench.experiments.cells import build_environment

    sentences = check_environment(build_environment(address, fields))
    for sentence in sentences:
        sys.stdout.write(f"{sentence}\n")
    if not sentences:
        sys.stdout.write(f"{address}: no faults found\n")
    return 1 if sentences else 0


@app.command
def schelling(
    *tokens: str,
    out: Path,
    episodes: int = 64,
    steps: int | None = None,
    seed: int = 0,
    cooperate: str = "cooperate",
    defect: str = "defect",
) -> int:
    """Find out whether a world is a social dilemma: play every mixture of two policies and draw the diagram.

    Parameters
    ----------
    tokens
        env=NAME, then env.FIELD=VALUE settings of the environment.
    out
        Folder of the diagram and the figures behind it; worlds already there stay.
    episodes
        Episodes of each mixture, at least 2.
    steps
        Longest episode; the world's horizon, if left out.
    seed
        Seed of the episodes.
    cooperate
        The policy that cooperates: one of the world's own, or random.
    defect
        The policy that defects.
    """
    world, fields = world_of(tokens)
    prepare_jax()
    from marl_bench.experiments import schelling as study

    return study.main(
        world, out, fields=fields, cooperate=cooperate, defect=defect, episodes=episodes, steps=steps, seed=seed
    )


@app.command(name="list")
def list_(what: Literal["envs", "learners", "papers", "jumanji", "jaxmarl"]) -> int:
    """List environments, learners (with every field), papers, or another suite's environments.

    Parameters
    ----------
    what
        envs, learners or papers; jumanji or jaxmarl for the environments of that package.
    """
    from marl_bench import listing, presets

    if what == "papers":
        listing.print_papers(sys.stdout)
    elif what in presets.SCHEMES:
        listing.print_ids(what, sys.stdout)
    else:
        listing.print_classes("environment" if what == "envs" else "learner", sys.stdout)
    return 0


@app.command
def doctor() -> int:
    """Print versions, devices, memory and caches: the first thing to paste in a bug report."""
    from marl_bench.runtime import devices

    sys.stdout.write(devices.doctor() + "\n")
    return 0


def world_of(tokens: Sequence[str]) -> tuple[str, list[str]]:
    """Name of the world in `env=NAME`, and the other tokens, which must be settings of it."""
    names = [token.removeprefix("env=") for token in tokens if token.startswith("env=")]
    if len(names) != 1 or not names[0]:
        raise UsageError("name one environment with env=NAME ('marl-bench list envs' shows them)")
    _import_from_here(tokens)
    return names[0], [token for token in tokens if not token.startswith("env=")]


def _until_stopped(work: Callable[[], int]) -> int:
    """Run `work`; a signal that made it save and stop becomes the exit code that shells expect."""
    from marl_bench.experiments.sweep import Interrupted

    try:
        return work()
    except Interrupted as stop:
        sys.stderr.write(f"marl-bench: {stop}\n")
        return stop.code


def prepare_jax() -> None:
    """Use all cores of a CPU as devices, and keep compiled programs; before JAX is first used."""
    from marl_bench.runtime import devices

    devices.use_cpu_cores()
    devices.enable_compile_cache()


def _import_from_here(tokens: Sequence[str]) -> None:
    """Let `package.module:Class` be found in the current directory, after everything installed."""
    named = any(token.startswith(("env=", "learner=")) and ":" in token for token in tokens)
    here = os.getcwd()
    if (named or any(token.endswith((".yaml", ".yml")) for token in tokens)) and here not in sys.path:
        sys.path.append(here)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"marl-bench: {record.levelname.lower()}: {' '.join(record.getMessage().split())}"


def _configure_logging() -> None:
    logger = logging.getLogger("marl_bench")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_OneLine())
        logger.addHandler(handler)
        logger.propagate = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
      argv: arguments without the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    _configure_logging()
    try:
        result = app(arguments, exit_on_error=False, print_error=False, help_on_error=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        return _report(error, "interrupted; what was saved can be continued with --resume", 130, debug)
    except (CycloptsError, UsageError) as error:
        return _report(error, str(error), 2, debug)
    except RunError as error:
        return _report(error, str(error), 1, debug)
    except Exception as error:
        hint = "" if debug else ", run again with --debug for the traceback"
        return _report(error, f"internal error: {type(error).__name__}: {error}{hint}", 1, debug)


def _report(error: BaseException, message: Any, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    sys.stderr.write(f"marl-bench: error: {' '.join(str(message).split())}\n")
    return code
