"""`marl-bench dataset`: commands on data sets. Like those of `cli`, each imports what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from marl_bench.errors import UsageError

app = App(
    name="dataset", help="Data sets for offline learners: look at, check, convert, draw.", result_action="return_value"
)

Layout = Literal["vault", "omar", "h5"]
"""Layouts of others: OG-MARL's Flashbax Vaults, OMAR's npy files, CFCQL's h5 files."""


@app.command
def info(path: Path) -> int:
    """Print what a data set is: world, behaviour, sizes, returns, licence.

    Parameters
    ----------
    path
        Folder of the data set.
    """
    from marl_bench.datasets.stored import open_dataset
    from marl_bench.experiments.dataset_files import description

    sys.stdout.write(description(open_dataset(path)) + "\n")
    return 0


@app.command
def verify(path: Path, *, repair: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Compare every file with its SHA-256 in the manifest, and read everything.

    Parameters
    ----------
    path
        Folder of the data set.
    repair
        Write the vault's root again first, if a write was cut short: other readers need it.
    """
    from marl_bench.datasets.stored import open_dataset

    dataset = open_dataset(path)
    if repair:
        dataset.repair()
    dataset.verify()
    episodes = sum(dataset.num_episodes(part) for part in range(dataset.num_parts))
    known = "every file as in the manifest" if dataset.manifest else "readable (it has no manifest to compare with)"
    sys.stdout.write(f"{path}: {dataset.num_parts} data sets, {episodes} episodes, {known}\n")
    return 0


@app.command(name="import")
def import_(
    layout: Layout,
    source: Path,
    *tokens: str,
    out: Path,
    tier: str | None = None,
    behaviour: str = "unknown",
    licence: str = "unknown",
    random_return: float | None = None,
    expert_return: float | None = None,
) -> int:
    """Bring data of another layout into a data set.

    Parameters
    ----------
    layout
        vault (OG-MARL), omar (npy) or h5 (CFCQL).
    source
        The vault's folder; the folder with seed_0_data, ...; the h5 file, or a folder of h5 files.
    tokens
        env=NAME env.FIELD=VALUE: the world that the data are of. Without it, runs must name it.
    out
        Folder of the data set: new.
    tier
        random, medium-replay, medium, expert or mixed.
    behaviour
        Which policies acted.
    licence
        Of the data.
    random_return
        Mean return of random play, for normalised scores.
    expert_return
        Mean return of an expert.
    """
    from marl_bench.cli import world_of
    from marl_bench.datasets.manifest import Manifest
    from marl_bench.experiments.dataset_files import description, imported

    given = world_of(tokens) if tokens else None
    world = None if given is None else (given[0], given[1])
    manifest = Manifest(
        behaviour=behaviour, tier=tier, licence=licence, random_return=random_return, expert_return=expert_return
    )
    sys.stdout.write(description(imported(layout, source, out, world, manifest)) + "\n")
    return 0


@app.command
def export(layout: Layout, path: Path, *, out: Path) -> int:
    """Write a data set in another layout.

    Parameters
    ----------
    layout
        vault (OG-MARL), omar (npy) or h5 (CFCQL).
    path
        Folder of the data set.
    out
        Folder to write: new.
    """
    from marl_bench.datasets.stored import open_dataset
    from marl_bench.experiments.dataset_files import exported

    exported(layout, open_dataset(path), out)
    return 0


@app.command
def plot(path: Path, *, out: Path) -> int:
    """Draw the returns of a data set's episodes, its actions, and how much of it is new (coverage).

    Parameters
    ----------
    path
        Folder of the data set.
    out
        The picture, a .png; a .svg is written beside it.
    """
    from marl_bench.datasets.stored import open_dataset
    from marl_bench.experiments.dataset_files import plotted

    if out.suffix != ".png":
        raise UsageError(f"--out {out}: expected a name that ends in .png")
    sys.stdout.write(plotted(open_dataset(path), out) + "\n")
    return 0


@app.command
def collect(
    *tokens: str,
    out: Path,
    tier: str | None = None,
    policy: str | None = None,
    seeds: int = 5,
    episodes: int = 1000,
    epsilon: float = 0.0,
    low: float = 0.2,
) -> int:
    """Record data: tiers of policies that are trained for it, or any one policy. What was begun is continued.

    Parameters
    ----------
    tokens
        env=NAME, then env.FIELD=VALUE settings of the environment.
    out
        Folder of the tiers (one data set each), or of the policy's data set.
    tier
        Tiers separated by commas: random, medium-replay, medium, expert, mixed.
    policy
        random, a script of the world, scaled_slots (in equal_line), or the directory of a run.
    seeds
        Number of data sets in one, each of a policy trained on its own.
    episodes
        Of each of them.
    epsilon
        With a policy: chance of a uniform action, of each agent in each step.
    low
        With scaled_slots: smallest scale, the largest is 1.
    """
    from marl_bench.cli import prepare_jax, world_of

    if (tier is None) == (policy is None):
        raise UsageError("name what to record: either --tier or --policy")
    if min(seeds, episodes) < 1:
        raise UsageError(f"--seeds {seeds} --episodes {episodes}: must be at least 1")
    world, fields = world_of(tokens)
    prepare_jax()
    from marl_bench.experiments import dataset_tiers
    from marl_bench.experiments.cells import build_environment

    environment = build_environment(world, fields)
    if policy is not None:
        made = [dataset_tiers.collect_policy(world, environment, policy, seeds, episodes, out, epsilon, low)]
    else:
        tiers = [name.strip() for name in (tier or "").split(",")]
        made = dataset_tiers.collect_tiers(world, environment, tiers, seeds, episodes, out)
    for path in made:
        sys.stdout.write(f"{path}\n")
    return 0
