"""What importers and exporters share: parts that are read one at a time, and lists of digests as `sha256sum` writes them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import overload

import numpy as np

from marl_bench.datasets.manifest import FILE_NAME, File, check_file, file_of, read_bounded
from marl_bench.datasets.schema import ROW_FIELDS, Trajectories
from marl_bench.errors import RunError, UsageError
from marl_bench.runtime.files import TEMPORARY_PREFIX, as_run_error, write_atomic

SUMS = "SHA256SUMS"
"""Digests of all files below a folder; `sha256sum -c SHA256SUMS` reads it too."""

MOST_COMPRESSION = 1100
"""Deflate shrinks at most 1032-fold; larger factors are not data."""
SMALL = 16 << 20
"""Bytes of which no factor is asked."""

_LINE = re.compile(rf"([0-9a-f]{{64}})  ({FILE_NAME})")


class Parts(Sequence[Trajectories]):
    """K data sets that are read when they are asked for, and not kept.

    Reading raises RunError when one of them has arrays of other shapes or types than one before.
    """

    def __init__(self, source: Path, readers: Sequence[Callable[[], Trajectories]]):
        self._source, self._readers = source, readers
        self._kinds: dict[str, str] | None = None

    def __len__(self) -> int:
        return len(self._readers)

    @overload
    def __getitem__(self, index: int) -> Trajectories: ...

    @overload
    def __getitem__(self, index: slice) -> Parts: ...

    def __getitem__(self, index: int | slice) -> Trajectories | Parts:
        if isinstance(index, slice):
            return Parts(self._source, self._readers[index])
        found = self._readers[index]()
        kinds = {
            name: f"{array.dtype.name} {array.shape[1:]}"
            for name in ROW_FIELDS
            if (array := getattr(found, name)) is not None
        }
        self._kinds = self._kinds or kinds
        for name in ROW_FIELDS:
            one, other = kinds.get(name), self._kinds.get(name)
            if one != other:
                raise RunError(
                    f"{self._source}: {name} is {one} in data set {index}, and {other} in one before; import them apart"
                )
        return found


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when all went well, with the digests of its files.

    Raises:
      UsageError: when `path` exists. RunError: disk full, or not allowed to write.
    """
    if path.exists():
        raise UsageError(f"{path}: exists already; choose another folder, or delete it")
    building = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        yield building
        files = sorted(file.relative_to(building).as_posix() for file in building.rglob("*") if file.is_file())
        sums = "".join(f"{file_of(building / name).sha256}  {name}\n" for name in files)
        write_atomic(building / SUMS, sums.encode())
        building.replace(path)
    except OSError as error:
        raise as_run_error(path, error) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def check_sums(folder: Path) -> None:
    """Compare files with `SHA256SUMS`, where a folder has it. Raises RunError naming the file and both digests."""
    path = folder / SUMS
    if not os.path.lexists(path):
        return
    for line in read_bounded(path).decode("utf-8", "replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise RunError(f"{path}: {line[:100]!r} is not 'SHA-256  NAME'; get the data set again from its source")
        file = folder / match[2]
        check_file(folder, match[2], File(file.stat().st_size if file.is_file() else 0, match[1]))


def trajectories_of(path: Path, **fields: np.ndarray | None) -> Trajectories:
    """`Trajectories` of what a file holds. Raises RunError naming the file for what is not of the schema."""
    try:
        return Trajectories(**fields)  # type: ignore[arg-type]
    except (ValueError, IndexError) as error:
        raise RunError(f"{path}: {error}; not data of this schema") from error


def flags(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Zeros and ones as bool. Raises RunError for other values."""
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise RunError(f"{path}: {name}: expected 0 and 1 only; not data of this layout")
    return array.astype(bool)


def successors(part: Trajectories, rows: np.ndarray, last: np.ndarray) -> np.ndarray:
    """What follows each step: the next row, after an episode's end the last one. `rows`: [T, ...]. `last`: [E, ...]."""
    found = np.empty_like(rows)
    found[:-1] = rows[1:]
    found[part.is_last] = last
    return found
