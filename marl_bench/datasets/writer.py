"""Writing data sets: at once, or in pieces that each are complete when written."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

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
    decoded,
    encoded,
    file_of,
    read_bounded,
)
from marl_bench.datasets.schema import LAST_FIELDS, Trajectories
from marl_bench.datasets.stored import StoredDataset, blocks, check_files, chunk_tensor, open_dataset, part_of
from marl_bench.errors import UsageError
from marl_bench.runtime.files import TEMPORARY_PREFIX, Lock, as_run_error, write_atomic


def write_dataset(
    path: Path | str, parts: Sequence[Trajectories], manifest: Manifest, files: Mapping[str, bytes] | None = None
) -> StoredDataset:
    """Write K data sets at once; `path` appears when everything is on the disk.

    Args:
      path: folder that does not exist, or is empty.
      parts: the K data sets, with the same fields.
      manifest: what they are. files: further files (policies, say), name -> content, below `marl_bench/`.
    Raises:
      UsageError: when something is there already, or a part is empty.
      RunError: disk full, or not allowed to write.
    """
    path = Path(path)
    _refuse_existing(path)
    building = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        with DatasetWriter(building, manifest, len(parts)) as writer:
            for name, content in (files or {}).items():
                writer.add_file(name, content)
            for number, part in enumerate(parts):
                for first, stop in blocks(part.lengths, part.nbytes // max(part.num_steps, 1)):
                    writer.append(number, part.episodes(np.arange(first, stop)))
        missing = [number for number in range(len(parts)) if not writer.num_episodes(number)]
        if missing or not parts:
            raise UsageError(f"{path}: part {missing[0] if missing else 0} holds no episodes; leave it out")
        building.replace(path)
    except OSError as error:
        raise as_run_error(path, error) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return open_dataset(path)


class DatasetWriter:
    """Writes episodes in pieces: each `append` is on the disk, complete and verifiable, when it returns.

    A process that is killed, or finds the disk full, leaves what it had appended before; with `resume` the next one goes on.
    """

    def __init__(self, path: Path | str, manifest: Manifest, num_parts: int, resume: bool = False):
        """Take the folder.

        Args:
          path: new or empty folder, or with `resume` one that was begun with the same manifest.
          manifest: what will be written. num_parts: K.
        Raises:
          UsageError: when something else is there. RunError: when it cannot be written, or another process writes there.
        """
        self.path, self.manifest, self._num_parts = Path(path), manifest, num_parts
        self._contents = Contents(tuple(Part() for _ in range(num_parts)), (), {}, b"")
        self._returns: list[list[np.ndarray]] = [[] for _ in range(num_parts)]
        if not resume or not os.path.lexists(self.path / FOLDER):
            _refuse_existing(self.path)
        try:
            (self.path / FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise as_run_error(self.path, error) from error
        self._lock = Lock(self.path / FOLDER / "lock")
        self._lock.acquire()
        try:
            self._take_up()
        except BaseException:
            self._lock.release()
            raise

    def num_episodes(self, part: int) -> int:
        """Episodes of a part that are complete."""
        return self._contents.parts[part].episodes

    def append(self, part: int, new: Trajectories) -> None:
        """Add episodes to one of the K data sets.

        Raises:
          ValueError: when the part's last episode is not over, or nothing is given.
          RunError: disk full, or other fields than before. What was complete stays valid.
        """
        old = self._contents.parts[part]
        if not new.num_steps or not old.ended:
            raise ValueError(f"part {part}: nothing to append, or its last episode is not over")
        first = not self._contents.chunks
        if first:
            vaults.create_metadata(self.path, new, self._num_parts)
        name = f"{FOLDER}/chunk-{len(self._contents.chunks):06d}.safetensors"
        self._write_chunk(name, new)
        steps = [entry.steps + new.num_steps * (number == part) for number, entry in enumerate(self._contents.parts)]
        vaults.append(self.path, new, part, old.steps, min(steps), self._num_parts, first)
        self._returns[part].append(new.returns)
        parts = list(self._contents.parts)
        ended = bool(np.all(new.terminals[-1] | new.truncations[-1]))
        parts[part] = part_of(self._returns[part], steps[part], ended)
        chunks = (*self._contents.chunks, Chunk(part, new.num_steps, new.num_episodes, name))
        self._commit(tuple(parts), chunks, [name, vaults.METADATA])

    def add_file(self, name: str, content: bytes) -> None:
        """Keep a further file, `marl_bench/NAME`, with the data (policies, say). Raises RunError."""
        path = self.path / FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
        self._commit(self._contents.parts, self._contents.chunks, [f"{FOLDER}/{name}"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _write_chunk(self, name: str, new: Trajectories) -> None:
        from safetensors.numpy import save

        last = {field: getattr(new, field) for field in LAST_FIELDS}
        tensors = {"lengths": new.lengths, "returns": new.returns, **{k: v for k, v in last.items() if v is not None}}
        write_atomic(self.path / name, save({key: np.ascontiguousarray(value) for key, value in tensors.items()}))

    def _commit(self, parts: tuple[Part, ...], chunks: tuple[Chunk, ...], changed: Sequence[str]) -> None:
        """Make what is on the disk count."""
        try:
            stored = [f"d/{entry.name}" for entry in (self.path / "d").glob("*")]
            new = [*changed, *(name for name in stored if name not in self._contents.files)]
            files = self._contents.files | {name: file_of(self.path / name) for name in new}
            root = (self.path / ROOT).read_bytes() if chunks else b""
        except OSError as error:
            raise as_run_error(self.path, error) from error
        contents = Contents(parts, chunks, files, root)
        write_atomic(self.path / MANIFEST, encoded(self.manifest, contents))
        self._contents = contents

    def _take_up(self) -> None:
        """Go on from what is complete; delete what is not."""
        if (self.path / MANIFEST).exists():
            manifest, contents = decoded(self.path / MANIFEST, read_bounded(self.path / MANIFEST))
            self._check_same(manifest, len(contents.parts))
            check_files(self.path, contents)
            self._contents = contents
            for chunk in contents.chunks:
                self._returns[chunk.part].append(chunk_tensor(self.path, chunk, "returns"))
        kept = self._contents.files.keys()
        for file in [*self.path.glob("d/*"), *self.path.glob(f"{FOLDER}/chunk-*"), self.path / vaults.METADATA]:
            if file.relative_to(self.path).as_posix() not in kept:
                file.unlink(missing_ok=True)
        if self._contents.chunks:
            write_atomic(self.path / ROOT, self._contents.root)
        else:
            (self.path / ROOT).unlink(missing_ok=True)

    def _check_same(self, found: Manifest, parts: int) -> None:
        """Refuse to go on with other data."""
        # Through the text, as tuples come back from it as lists.
        wanted = decoded(self.path / MANIFEST, encoded(self.manifest, Contents((), (), {}, b"")))[0]
        for field in dataclasses.fields(Manifest):
            one, other = getattr(found, field.name), getattr(wanted, field.name)
            if one != other:
                raise UsageError(
                    f"{self.path}: begun with {field.name} {str(one)[:200]}, now {str(other)[:200]}; choose another folder"
                )
        if parts != self._num_parts:
            raise UsageError(f"{self.path}: begun with {parts} parts, now {self._num_parts}; choose another folder")


def _refuse_existing(path: Path) -> None:
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"{path}: exists already; choose another folder, or delete it")
    except OSError as error:
        raise as_run_error(path, error) from error
