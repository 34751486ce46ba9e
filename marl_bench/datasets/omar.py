"""The npy files of OMAR (Pan et al. 2022), in which CFCQL's continuous data come too.

    SOURCE/seed_K_data/obs_I.npy [T, O], acs_I.npy [T, D], rews_I.npy [T], next_obs_I.npy [T, O], dones_I.npy [T]

for every agent I, rows in the order of time; MuJoCo tasks add states_I.npy and next_states_I.npy [T, S]. The K folders are K data
sets. An episode ends where `dones` is set for all agents (the game ended), or where the next row does not start from `next_obs`
(time was up: in the particle worlds `dones` is never set). `export` adds truncations_I.npy, so that ends need not be inferred.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np

from marl_bench.datasets.formats import Parts, check_sums, flags, new_folder, successors, trajectories_of
from marl_bench.datasets.manifest import check_plain, one_line
from marl_bench.datasets.schema import Trajectories
from marl_bench.datasets.stored import StoredDataset
from marl_bench.errors import RunError, UsageError

_SEED = re.compile(r"seed_(\d{1,6})_data")
_MAX_AGENTS = 10_000


def read(source: Path | str) -> Parts:
    """The data sets of a folder, read when asked for.

    Args:
      source: folder with `seed_K_data` folders, or one such folder.
    Raises:
      UsageError: when there are none. RunError: for damaged or foreign files, naming the file.
    """
    source = Path(source)
    numbered = sorted(
        (int(match[1]), path) for path in source.glob("seed_*_data") if (match := _SEED.fullmatch(path.name))
    )
    folders = [path for _, path in numbered] or [source]
    for folder in folders:
        if folder.is_symlink():
            raise RunError(f"{folder}: is a link; a data set holds plain files only")
        if not (folder / "obs_0.npy").exists():
            raise UsageError(
                f"{folder}: no obs_0.npy; expected a folder of seed_0_data, seed_1_data, ... or one of these"
            )
    check_sums(source)
    return Parts(source, [functools.partial(_read_part, folder) for folder in folders])


def export(dataset: StoredDataset, out: Path | str) -> None:
    """Write the K data sets as folders `seed_K_data`, with `SHA256SUMS`.

    Raises:
      UsageError: for numbered actions, or where what followed an episode's last step is unknown: the layout needs it.
      RunError: disk full, or not allowed to write.
    """
    with new_folder(Path(out)) as folder:
        for number in range(dataset.num_parts):
            part = dataset.read(number)
            if part.actions.ndim != 3 or part.observations.ndim != 3:
                raise UsageError(f"{dataset.path}: OMAR's layout holds vectors as observations and actions only")
            if part.last_observations is None:
                raise UsageError(f"{dataset.path}: what followed the last steps is unknown, but is needed for next_obs")
            _write_part(folder / f"seed_{number}_data", part, part.last_observations)


def _write_part(folder: Path, part: Trajectories, last: np.ndarray) -> None:
    folder.mkdir()
    next_observations = successors(part, part.observations, last)
    shared = {}
    if part.state is not None and part.last_state is not None:
        shared = {"states": part.state, "next_states": successors(part, part.state, part.last_state)}
    for agent in range(part.num_agents):
        arrays = {
            "obs": part.observations[:, agent],
            "acs": part.actions[:, agent],
            "rews": part.rewards[:, agent],
            "next_obs": next_observations[:, agent],
            "dones": part.terminals[:, agent],
            "truncations": part.truncations[:, agent],
            **shared,
        }
        for name, array in arrays.items():
            np.save(folder / f"{name}_{agent}.npy", np.ascontiguousarray(array), allow_pickle=False)


def _read_part(folder: Path) -> Trajectories:
    agents = 0
    while agents < _MAX_AGENTS and (folder / f"obs_{agents}.npy").exists():
        agents += 1

    def stacked(name: str) -> np.ndarray:
        arrays = [_load(folder / f"{name}_{agent}.npy") for agent in range(agents)]
        for agent, array in enumerate(arrays):
            if array.shape != arrays[0].shape or array.dtype != arrays[0].dtype:
                raise RunError(
                    f"{folder / f'{name}_{agent}.npy'}: {array.dtype} {array.shape}, but agent 0 has {arrays[0].dtype} "
                    f"{arrays[0].shape}; fill up smaller observations, and leave out agents that are part of the world"
                )
        return np.stack(arrays, axis=1)

    observations, next_observations = stacked("obs"), stacked("next_obs")
    if not len(observations) or next_observations.shape != observations.shape:
        raise RunError(
            f"{folder}: next_obs of shape {next_observations.shape}, obs {observations.shape}; expected the same, not empty"
        )
    actions, rewards, dones = stacked("acs"), stacked("rews"), flags(folder, "dones", stacked("dones"))
    if not dones.shape == rewards.shape == observations.shape[:2] or actions.ndim != 3:
        raise RunError(
            f"{folder}: acs {actions.shape}, rews {rewards.shape}, dones {dones.shape}, obs {observations.shape} (time, agents, "
            "...) do not fit together; the files are of different runs, or cut short"
        )
    if (folder / "truncations_0.npy").exists():
        truncations = flags(folder, "truncations", stacked("truncations"))
    else:
        # Compared as bytes would be, but -0.0 is 0.0.
        follows = np.all(observations[1:] == next_observations[:-1], axis=(1, 2))
        ends = np.append(~follows, True)
        truncations = ends[:, None] & ~dones
    fields = {}
    if (folder / "states_0.npy").exists():
        fields = {"state": _load(folder / "states_0.npy"), "last_state": _load(folder / "next_states_0.npy")}
    rows = dict(observations=observations, actions=actions, rewards=rewards, terminals=dones, truncations=truncations)
    is_last = trajectories_of(folder, **rows).is_last
    try:
        last = {name: array[is_last] if name.startswith("last") else array for name, array in fields.items()}
    except IndexError as error:
        raise RunError(f"{folder}: next_states_0.npy has another number of rows than obs_0.npy") from error
    return trajectories_of(folder, **rows, **last, last_observations=next_observations[is_last])


def _load(path: Path) -> np.ndarray:
    """An npy file of plain numbers. Raises RunError; nothing in it is executed."""
    remedy = "get the data set again from its source"
    try:
        size = check_plain(path)
        # Maps the file: object arrays (pickles) are refused, and shapes larger than the file.
        with np.errstate(over="raise"):
            mapped = np.lib.format.open_memmap(path, mode="r")
        if mapped.dtype.kind not in "fiub":
            raise RunError(f"{path}: holds {mapped.dtype}, expected numbers; {remedy}")
        if mapped.offset + mapped.nbytes != size:
            raise RunError(f"{path}: {size} bytes, expected {mapped.offset + mapped.nbytes}; {remedy}")
        return np.array(mapped)
    except (OSError, ValueError, TypeError, ArithmeticError, MemoryError, SyntaxError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read ({one_line(error)}); {remedy}") from error
