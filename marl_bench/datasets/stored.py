"""Data sets on the disk: a vault (`vault`) with a manifest (`manifest`), opened, read in part, written in pieces.

    PATH/metadata.json, manifest.ocdbt, d/*        the vault, for every reader of Flashbax Vaults
    PATH/marl_bench/manifest.json                  what the data are, and the SHA-256 of every file
    PATH/marl_bench/chunk-000000.safetensors       lengths, returns and last observations of the episodes written at once

The K data sets may have different sizes: the vault's own count is the smallest, so that no other reader takes padding for data.
A vault of somebody else, without the folder `marl_bench`, opens too; then nobody knows its world, or what followed its last steps.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench.datasets import vault as vaults
from marl_bench.datasets.manifest import (
    FOLDER,
    MANIFEST,
    ROOT,
    Chunk,
    Contents,
    Manifest,
    Part,
    check_file,
    decoded,
    one_line,
    read_bounded,
)
from marl_bench.datasets.schema import LAST_FIELDS, Trajectories
from marl_bench.errors import RunError, UsageError
from marl_bench.runtime.files import sha256, write_atomic

_CHUNK_BYTES = 64 << 20


class StoredDataset:
    """K data sets of one world on the disk. Made by `open_dataset`.

    Attributes:
      path: the folder.
      manifest: what is known of the data; None for a vault of somebody else.
    """

    def __init__(self, path: Path, manifest: Manifest | None, contents: Contents | None):
        self.path, self.manifest, self._contents = path, manifest, contents
        self._vault = vaults.open_vault(path, contents.root if contents else None)
        self._lengths: dict[int, np.ndarray] = {}
        if contents and len(contents.parts) != self._vault.num_parts:
            raise RunError(f"{path / MANIFEST}: {len(contents.parts)} parts, {self._vault.num_parts} in the vault")
        self._vault.check_size(sum(self.num_steps(part) for part in range(self.num_parts)))

    @property
    def num_parts(self) -> int:
        """K."""
        return self._vault.num_parts

    @property
    def parts(self) -> tuple[Part, ...]:
        """Sizes and statistics of the K data sets; of somebody else's vault they are computed."""
        if self._contents:
            return self._contents.parts
        return tuple(part_of([self.read(part).returns], self.lengths(part).sum()) for part in range(self.num_parts))

    def num_steps(self, part: int) -> int:
        """Steps of a part."""
        return self._contents.parts[self._checked(part)].steps if self._contents else self._vault.index

    def num_episodes(self, part: int) -> int:
        """Episodes of a part."""
        return self._contents.parts[self._checked(part)].episodes if self._contents else len(self.lengths(part))

    def lengths(self, part: int) -> np.ndarray:
        """[E] int64, steps of each episode of a part."""
        if part not in self._lengths:
            self._lengths[part] = self._read_lengths(self._checked(part))
        return self._lengths[part]

    @property
    def nbytes(self) -> int:
        """Bytes of the steps of all parts, and of their last observations, in memory."""
        row = self._vault.row_bytes
        episodes = sum(part.episodes for part in self._contents.parts) if self._contents else 0
        return row * (sum(self.num_steps(part) for part in range(self.num_parts)) + episodes)

    def read(self, part: int, first_episode: int = 0, num_episodes: int | None = None) -> Trajectories:
        """Whole episodes of a part, by default all from `first_episode` on.

        Raises:
          UsageError: for a part or episodes that are not there.
          RunError: when the files are damaged.
        """
        lengths = self.lengths(part)
        stop = lengths.size if num_episodes is None else first_episode + num_episodes
        if not 0 <= first_episode < stop <= lengths.size:
            raise UsageError(f"{self.path}: part {part} has {lengths.size} episodes, not {first_episode} to {stop - 1}")
        start, end = int(lengths[:first_episode].sum()), int(lengths[:stop].sum())
        found = self._vault.trajectories(part, start, end, **self._last(part, first_episode, stop))
        if not np.array_equal(found.lengths, lengths[first_episode:stop]):
            raise RunError(
                f"{self.path}: part {part}: episodes do not end where the manifest says; the data set is damaged"
            )
        return found

    def returns(self, part: int) -> np.ndarray:
        """[E, N] float64, undiscounted returns of a part's episodes."""
        if self._contents is None:
            return self.read(part).returns
        found = np.concatenate([chunk_tensor(self.path, chunk, "returns") for chunk in self._chunks(part)])
        if found.shape[1:] != self._vault.leaves["rewards"].shape[2:] or not np.isfinite(found).all():
            raise RunError(
                f"{self.path}: part {part}: returns are not one number for each agent; the data set is damaged"
            )
        return found

    def verify(self) -> None:
        """Compare every file with its digest, and read everything once. Raises RunError naming the first damaged file."""
        if self._contents:
            root, expected = self.path / ROOT, sha256(self._contents.root)
            found = sha256(read_bounded(root))
            if found != expected:
                raise RunError(
                    f"{root}: expected SHA-256 {expected}, found {found}; the data are whole for marl-bench, "
                    f"'marl-bench dataset verify {self.path} --repair' writes this file again for other readers"
                )
            check_files(self.path, self._contents)
        for part in range(self.num_parts):
            returns = self.returns(part) if self._contents else None
            for first, stop in blocks(self.lengths(part), self._vault.row_bytes):
                found = self.read(part, first, stop - first)
                if returns is not None and not np.allclose(found.returns, returns[first:stop]):
                    raise RunError(
                        f"{self.path}: part {part}: returns are not the sums of rewards; the data set is damaged"
                    )

    def repair(self) -> None:
        """Write the vault's root again, after a write was cut short or it was damaged; the data stay."""
        if self._contents:
            write_atomic(self.path / ROOT, self._contents.root)

    def _checked(self, part: int) -> int:
        if not 0 <= part < self.num_parts:
            raise UsageError(f"{self.path}: has parts 0 to {self.num_parts - 1}, not {part}")
        return part

    def _chunks(self, part: int) -> list[Chunk]:
        return [chunk for chunk in self._contents.chunks if chunk.part == part] if self._contents else []

    def _read_lengths(self, part: int) -> np.ndarray:
        if self._contents is None:
            return self._found_lengths(part)
        found = [np.zeros(0, np.int64)]
        for chunk in self._chunks(part):
            lengths = chunk_tensor(self.path, chunk, "lengths")
            if lengths.shape != (chunk.episodes,) or lengths.min() < 1 or lengths.sum() != chunk.steps:
                raise RunError(f"{self.path / chunk.file}: lengths do not fit the manifest; the data set is damaged")
            found.append(lengths.astype(np.int64))
        return np.concatenate(found)

    def _found_lengths(self, part: int) -> np.ndarray:
        steps = self._vault.index
        if not steps:
            return np.zeros(0, np.int64)
        over = self._vault.read("terminals", part, 0, steps) != 0
        ends = np.all(over | (self._vault.read("truncations", part, 0, steps) != 0), axis=tuple(range(1, over.ndim)))
        ends[-1] = True
        return np.diff(np.flatnonzero(ends), prepend=-1)

    def _last(self, part: int, first: int, stop: int) -> dict[str, np.ndarray]:
        """`LAST_FIELDS` of episodes first ... stop - 1, from the chunks that hold them."""
        found: dict[str, list[np.ndarray]] = {}
        begin = 0
        for chunk in self._chunks(part):
            inside = slice(max(first - begin, 0), max(min(stop - begin, chunk.episodes), 0))
            if inside.start < inside.stop:
                for name, tensor in _chunk_tensors(self.path, chunk, LAST_FIELDS).items():
                    found.setdefault(name, []).append(tensor[inside])
            begin += chunk.episodes
        return {name: np.concatenate(arrays) for name, arrays in found.items()}


def open_dataset(path: Path | str) -> StoredDataset:
    """Open a data set, every file compared with its digest in the manifest.

    Raises:
      UsageError: when there is no data set at `path`.
      RunError: when a file is missing, damaged or foreign, naming it, and what was expected and found.
    """
    path = Path(path)
    if not (path / vaults.METADATA).exists() and not (path / FOLDER).exists():
        raise UsageError(f"{path}: no data set (expected a folder with {vaults.METADATA}){_inside(path)}")
    if not os.path.lexists(path / FOLDER):
        return StoredDataset(path, None, None)
    if not os.path.lexists(path / MANIFEST):
        raise RunError(f"{path}: its first episodes were never completed; collect or import it again")
    manifest, contents = decoded(path / MANIFEST, read_bounded(path / MANIFEST))
    check_files(path, contents)
    return StoredDataset(path, manifest, contents)


def check_files(path: Path, contents: Contents) -> None:
    """Compare all files with their digests. Raises RunError."""
    for name, file in contents.files.items():
        check_file(path, name, file)


def _inside(path: Path) -> str:
    """Data sets directly inside a folder, as a hint."""
    names = sorted(inner.parent.name for inner in path.glob(f"*/{vaults.METADATA}"))
    return f"; inside it are {', '.join(names[:8])}" if names else ""


def blocks(lengths: np.ndarray, row_bytes: int) -> list[tuple[int, int]]:
    """Stretches (first, stop) of whole episodes of about 64 MiB each."""
    place = np.cumsum(lengths) * max(row_bytes, 1) // _CHUNK_BYTES
    cuts = [0, *(np.flatnonzero(np.diff(place)) + 1), lengths.size]
    return [(int(first), int(stop)) for first, stop in itertools.pairwise(cuts) if stop > first]


def part_of(returns: Sequence[np.ndarray], steps: int, ended: bool = True) -> Part:
    """Statistics from the returns [E, N] of the episodes."""
    scores = np.concatenate(returns).mean(axis=1)
    if not scores.size:
        return Part()
    mean, std, least, most = (float(of(scores)) for of in (np.mean, np.std, np.min, np.max))
    return Part(int(steps), scores.size, mean, std, least, most, ended)


def chunk_tensor(path: Path, chunk: Chunk, name: str) -> np.ndarray:
    """A tensor of a chunk's file. Raises RunError if it isn't there."""
    try:
        return _chunk_tensors(path, chunk, (name,))[name]
    except KeyError:
        raise RunError(f"{path / chunk.file}: holds no {name}; the data set is damaged") from None


def _chunk_tensors(path: Path, chunk: Chunk, names: Sequence[str]) -> dict[str, Any]:
    """The tensors among `names` that a chunk's file holds; only these are read."""
    from safetensors import SafetensorError, safe_open

    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(safe_open(path / chunk.file, framework="numpy"))
            present = set(file.keys())
            found = {name: file.get_tensor(name) for name in names if name in present}
            for name, tensor in found.items():
                if tensor.shape[:1] != (chunk.episodes,):
                    raise ValueError(f"{name}: shape {tensor.shape}, expected {chunk.episodes} episodes")
            return found
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path / chunk.file}: damaged ({one_line(error)}); get the data set again") from error
