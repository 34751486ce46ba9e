"""The h5 files of CFCQL's discrete experiments (Shao et al. 2023): episodes [E, L, ...], filled up to L = longest + 1 steps.

    state [E, L, S], obs [E, L, N, O], actions [E, L, N, 1], avail_actions [E, L, N, A], probs [E, L, N, A],
    reward [E, L, 1], terminated [E, L, 1], filled [E, L, 1]

The row after an episode's last step holds what was seen then; `filled` is 1 up to and with it. `terminated` is 0 where time was up.
One reward for all agents. Needs `h5py`: pip install "marl-bench[h5]".
"""

from __future__ import annotations

import functools
import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench.datasets.formats import (
    MOST_COMPRESSION,
    SMALL,
    Parts,
    check_sums,
    flags,
    new_folder,
    trajectories_of,
)
from marl_bench.datasets.manifest import check_plain, one_line
from marl_bench.datasets.schema import Trajectories
from marl_bench.datasets.stored import StoredDataset
from marl_bench.errors import RunError, UsageError

_RANKS = {"state": 3, "obs": 4, "actions": 4, "avail_actions": 4, "reward": 3, "terminated": 3, "filled": 3}
# Deflate, shuffle, Fletcher's checksum, SZIP, N-bit, scale-offset, LZF: HDF5 would load others from plug-in libraries.
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}


def read(source: Path | str) -> Parts:
    """The data sets of an h5 file, or of all h5 files of a folder in the order of their names, read when asked for.

    Raises:
      UsageError: when there are none, or h5py is missing. RunError: for damaged or foreign files, naming the file.
    """
    _h5py()
    source = Path(source)
    files = sorted(source.glob("*.h5")) if source.is_dir() else [source]
    if not files or not files[0].exists():
        raise UsageError(f"{source}: no h5 file there")
    check_sums(source if source.is_dir() else source.parent)
    return Parts(source, [functools.partial(_read_part, file) for file in files])


def export(dataset: StoredDataset, out: Path | str) -> None:
    """Write the K data sets as `part_K.h5`, with `SHA256SUMS`.

    Raises:
      UsageError: for data that the layout cannot hold: vectors as actions, rewards of each agent's own, or without state, legal
        actions, or what followed the last steps.
      RunError: disk full, or not allowed to write.
    """
    h5py = _h5py()
    with new_folder(Path(out)) as folder:
        for number in range(dataset.num_parts):
            part = dataset.read(number)
            arrays = _padded(dataset.path, part)
            # Through memory: on a full disk HDF5 crashes the process.
            content = io.BytesIO()
            with h5py.File(content, "w") as file:
                for name, array in arrays.items():
                    file.create_dataset(name, data=array, compression="gzip", fletcher32=True)
            (folder / f"part_{number}.h5").write_bytes(content.getbuffer())


def _padded(path: Path, part: Trajectories) -> dict[str, np.ndarray]:
    for name in ("state", "legals", "last_observations"):
        if getattr(part, name) is None:
            raise UsageError(f"{path}: holds no {name}, which CFCQL's layout needs")
    if part.actions.ndim != 2:
        raise UsageError(f"{path}: CFCQL's h5 layout is for numbered actions; these are vectors (omar is for them)")
    if (part.rewards != part.rewards[:, :1]).any() or (part.terminals != part.terminals[:, :1]).any():
        raise UsageError(f"{path}: CFCQL's layout holds one reward and one end for all agents, here they differ")
    lengths = part.lengths
    episode = np.repeat(np.arange(lengths.size), lengths)
    time = np.arange(part.num_steps) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    shape = (lengths.size, int(lengths.max()) + 1)

    def laid_out(rows: np.ndarray, last: np.ndarray | None, kind: Any = None) -> np.ndarray:
        out = np.zeros((*shape, *rows.shape[1:]), kind or rows.dtype)
        out[episode, time] = rows
        if last is not None:
            out[np.arange(lengths.size), lengths] = last
        return out

    assert part.state is not None and part.legals is not None
    filled = np.arange(shape[1]) <= lengths[:, None]
    legals = laid_out(part.legals, part.last_legals, np.int32)
    return {
        "state": laid_out(part.state, part.last_state),
        "obs": laid_out(part.observations, part.last_observations),
        "actions": laid_out(part.actions, None, np.int64)[..., None],
        "avail_actions": legals,
        "probs": np.zeros(legals.shape, np.float32),
        "reward": laid_out(part.rewards[:, :1], None),
        "terminated": laid_out(part.terminals[:, :1], None, np.uint8),
        "filled": filled[..., None].astype(np.int64),
    }


def _read_part(path: Path) -> Trajectories:
    arrays = _arrays(path)
    _check_shapes(path, arrays)
    filled = flags(path, "filled", arrays["filled"])[..., 0]
    lengths = filled.sum(axis=1) - 1
    if not lengths.size or lengths.min() < 1 or (filled != (np.arange(filled.shape[1]) <= lengths[:, None])).any():
        raise RunError(f"{path}: filled: expected ones, at least two, then zeros, in every episode")
    steps = np.arange(filled.shape[1]) < lengths[:, None]
    last = (np.arange(lengths.size), lengths)
    agents = arrays["obs"].shape[2]
    ends = np.zeros((int(lengths.sum()), 1), bool)
    ends[np.cumsum(lengths) - 1] = True
    terminals = flags(path, "terminated", arrays["terminated"])[steps]
    if (terminals & ~ends).any():
        raise RunError(f"{path}: terminated: set before the end of an episode")
    legals = flags(path, "avail_actions", arrays["avail_actions"])
    if arrays["actions"].dtype.kind not in "iu":
        raise RunError(f"{path}: actions: expected integers, found {arrays['actions'].dtype}")
    actions = arrays["actions"][..., 0][steps]
    if actions.min() < 0 or actions.max() >= legals.shape[-1]:
        raise RunError(f"{path}: actions: {actions.min()} to {actions.max()}, expected 0 to {legals.shape[-1] - 1}")
    each = lambda array: np.repeat(array, agents, axis=1)  # noqa: E731
    return trajectories_of(
        path,
        observations=arrays["obs"][steps],
        actions=actions.astype(np.int32),
        rewards=each(arrays["reward"][steps]),
        terminals=each(terminals),
        truncations=each(ends & ~terminals),
        state=arrays["state"][steps],
        legals=legals[steps],
        last_observations=arrays["obs"][last],
        last_state=arrays["state"][last],
        last_legals=legals[last],
    )


def _check_shapes(path: Path, arrays: dict[str, np.ndarray]) -> None:
    front, agents = arrays["obs"].shape[:2], arrays["obs"].shape[2]
    for name, array in arrays.items():
        wanted = (*front, agents) if name in ("actions", "avail_actions") else front
        single = name in ("actions", "reward", "terminated", "filled")
        if array.shape[: len(wanted)] != wanted or (single and array.shape[-1] != 1):
            raise RunError(f"{path}: {name}: expected shape {(*wanted, 1 if single else '...')}, found {array.shape}")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the layout; links, references and foreign storage are refused before anything is read."""
    h5py = _h5py()
    try:
        present = check_plain(path)
        with h5py.File(path, "r") as file:
            found = {name: _plain_array(h5py, path, file, name) for name in _RANKS}
            size = sum(array.nbytes for array in found.values())
            if size > max(SMALL, MOST_COMPRESSION * present):
                raise RunError(f"{path}: {present} bytes cannot hold the {size} bytes that it claims; not a data set")
            return {name: array[...] for name, array in found.items()}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        raise RunError(f"{path}: cannot be read ({one_line(error)}); get the data set again from its source") from error


def _plain_array(h5py: Any, path: Path, file: Any, name: str) -> Any:
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise RunError(
            f"{path}: {name}: {'missing' if link is None else 'a link to elsewhere'}; not data of this layout"
        )
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual:
        raise RunError(f"{path}: {name}: expected an array inside this file")
    if array.dtype.kind not in "fiub":
        raise RunError(f"{path}: {name}: holds {array.dtype}, expected numbers")
    if array.ndim < _RANKS[name]:
        raise RunError(f"{path}: {name}: expected at least {_RANKS[name]} axes, found shape {array.shape}")
    plist = array.id.get_create_plist()
    filters = {plist.get_filter(number)[0] for number in range(plist.get_nfilters())}
    if not filters <= _FILTERS:
        raise RunError(f"{path}: {name}: compressed by filter {max(filters)}, which needs a plug-in; use gzip")
    return array


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise UsageError("h5 files need h5py; install it with: pip install 'marl-bench[h5]'") from error
