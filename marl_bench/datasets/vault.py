"""Flashbax Vaults on disk, as OG-MARL publishes them: zarr arrays [K, time, ...] in an OCDBT key-value store.

Layout (flashbax 0.1.3, vault version 1.2): `metadata.json` names the leaves of a tree with their shapes and types; leaf ("infos",
"state") is the zarr array "infos.state." of the store, its time axis declared far longer than it is filled; "vault_index" counts
the steps that are there. Read and written through TensorStore alone. Nothing in these files is code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import re
import stat
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench.datasets.formats import MOST_COMPRESSION, SMALL
from marl_bench.datasets.manifest import ROOT, one_line, parsed, read_bounded
from marl_bench.datasets.schema import Trajectories
from marl_bench.errors import RunError
from marl_bench.runtime.files import write_atomic

METADATA = "metadata.json"
LEAVES = {
    "observations": ("observations",),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "terminals": ("terminals",),
    "truncations": ("truncations",),
    "state": ("infos", "state"),
    "legals": ("infos", "legals"),
}
"""Field of `Trajectories` -> place in OG-MARL's tree."""

_VERSION = 1.2
_LONGEST = 10**13
_OPTIONAL = {"state", "legals"}
_SHAPE = re.compile(r"\((?:\d{1,15}, ?)+(?:\d{1,15})?\)")
_TYPE = re.compile(r"[a-z0-9_]{1,20}")
_CHUNK_BYTES = 1 << 20
_MAX_CHUNK = 1 << 30
_MAX_LEAVES = 100
_MAX_FILES = 10**6


@dataclasses.dataclass(frozen=True, eq=False)
class Vault:
    """An open vault.

    Attributes:
      path: its folder (flashbax: rel_dir / vault_name / vault_uid).
      leaves: field of `Trajectories` -> TensorStore array [K, time, ...].
      num_parts: K.
      index: steps that all K have, by the vault's own count.
    """

    path: Path
    leaves: dict[str, Any]
    num_parts: int
    index: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one step of one of the K."""
        return sum(math.prod(leaf.shape[2:]) * leaf.dtype.numpy_dtype.itemsize for leaf in self.leaves.values())

    def check_size(self, steps: int) -> None:
        """Refuse to hold `steps` steps that the folder is too small for. Raises RunError."""
        size = steps * self.row_bytes
        present = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        if size > max(SMALL, MOST_COMPRESSION * present):
            raise RunError(f"{self.path}: {present} bytes cannot hold the {size} bytes that it claims; not a data set")

    def read(self, name: str, part: int, first: int, stop: int) -> np.ndarray:
        """Steps first ... stop - 1 of a field of one of the K: [stop - first, ...]. Raises RunError."""
        with _explained(self.path):
            return self.leaves[name][part, first:stop].read().result()

    def trajectories(self, part: int, first: int, stop: int, **last: np.ndarray) -> Trajectories:
        """The same of all fields, with the `LAST_FIELDS` given. Raises RunError for values that are not of the schema."""
        fields = {name: self.read(name, part, first, stop) for name in self.leaves}
        try:
            for name in ("terminals", "truncations", "legals"):
                if name in fields:
                    fields[name] = _as_bool(name, fields[name])
            if fields["actions"].ndim == 3:
                # Vectors as actions are all legal.
                fields.pop("legals", None)
            return Trajectories(**fields, **last)
        except ValueError as error:
            raise RunError(f"{self.path}: part {part}: {error}; not data of this schema") from error


def open_vault(path: Path, root: bytes | None = None) -> Vault:
    """Open a vault for reading.

    Args:
      path: its folder.
      root: content of `manifest.ocdbt` to use in place of the file: the data as they were when it was written.
    Raises:
      RunError: when the folder holds no vault, or one that is damaged, of another layout, or of absurd sizes.
    """
    _check_folder(path)
    structure = _structure(path)
    ts = _tensorstore()
    context = ts.Context()
    base: Any = _url(path)
    with _explained(path):
        if root is not None:
            ts.KvStore.open("memory://", context=context).result().write("root", root).result()
            base = {"driver": "kvstack", "layers": [{"base": base}, {"exact": ROOT, "base": "memory://root"}]}
        stores = {
            name: ts.open(_spec(base, place), context=context, open=True, read=True)
            for name, place in {**LEAVES, "vault_index": None}.items()
            if place is None or place in structure
        }
        leaves = {name: store.result() for name, store in stores.items()}
        index = leaves.pop("vault_index")
        if index.shape not in ((1,), ()) or index.dtype.numpy_dtype.kind not in "iu":
            raise ValueError(f"vault_index: expected one integer, found {index.dtype.name} {index.shape}")
        steps = int(np.ravel(index.read().result())[0])
    for name in LEAVES.keys() - _OPTIONAL - leaves.keys():
        raise RunError(f"{path / METADATA}: has no {name}; expected OG-MARL's tree ({', '.join(LEAVES)})")
    parts = leaves["observations"].shape[0]
    for name, leaf in leaves.items():
        _check_leaf(path, name, leaf, structure[LEAVES[name]], parts)
    if not 0 <= steps <= _LONGEST:
        raise RunError(f"{path}: vault_index: expected 0 to {_LONGEST}, found {steps}; the vault is damaged")
    return Vault(path, leaves, parts, steps)


def create_metadata(path: Path, first: Trajectories, num_parts: int) -> None:
    """Write `metadata.json` for vaults of K data sets with the fields of `first`. Raises RunError."""
    shapes: dict[str, Any] = {}
    dtypes: dict[str, Any] = {}
    for name, place in LEAVES.items():
        array = getattr(first, name)
        if array is None:
            continue
        for tree, entry in ((shapes, str((num_parts, 1, *array.shape[1:]))), (dtypes, array.dtype.name)):
            for key in place[:-1]:
                tree = tree.setdefault(key, {})
            tree[place[-1]] = entry
    body = {"version": _VERSION, "structure_shape": shapes, "structure_dtype": dtypes}
    write_atomic(path / METADATA, json.dumps(body).encode())


def append(path: Path, new: Trajectories, part: int, start: int, index: int, num_parts: int, create: bool) -> None:
    """Write steps of one of the K, all or (after a crash) none of them.

    Args:
      path: folder with `metadata.json`. new: what to write. part: which of the K. start: its steps so far.
      index: new value of the vault's own count. num_parts: K. create: whether these are the vault's first.
    Raises:
      RunError: disk full, or the vault has other fields.
    """
    ts = _tensorstore()
    base = _url(path)
    places = {place for name, place in LEAVES.items() if getattr(new, name) is not None}
    if places != _structure(path).keys():
        raise RunError(f"{path}: has other fields than what is to be appended; choose another folder")
    with _explained(path, "written"):
        # One context is one connection to the store, so that all leaves are written by one commit.
        commit, context = ts.Transaction(atomic=True), ts.Context()
        opened = functools.partial(ts.open, transaction=commit, context=context)
        for name, place in LEAVES.items():
            array = getattr(new, name)
            if array is not None:
                leaf = _open_leaf(opened, base, place, array, num_parts, create)
                leaf[part, start : start + new.num_steps].write(array).result()
        counter = np.asarray([index], np.int32)
        store = _open_leaf(opened, base, None, counter, num_parts, create)
        store[:].write(counter).result()
        commit.commit_sync()


def _open_leaf(
    opened: Any, base: str, place: tuple[str, ...] | None, array: np.ndarray, parts: int, create: bool
) -> Any:
    """The zarr array of a leaf. `opened`: TensorStore's open in a transaction."""
    spec = _spec(base, place)
    if not create:
        store = opened(spec, open=True).result()
        if place is not None and (store.shape[2:] != array.shape[1:] or store.dtype.numpy_dtype != array.dtype):
            found = f"{array.dtype} {array.shape[1:]}, expected {store.dtype.name} {store.shape[2:]}"
            raise ValueError(f"{'.'.join(place)}: {found}")
        return store
    if place is None:
        return opened(spec, shape=(1,), dtype=array.dtype, create=True).result()
    row = max(1, array[:1].nbytes)
    spec["metadata"] = {
        "compressor": {"id": "gzip", "level": 5},
        "chunks": [1, max(1, _CHUNK_BYTES // row), *(max(1, size) for size in array.shape[1:])],
    }
    shape = (parts, _LONGEST, *array.shape[1:])
    return opened(spec, shape=shape, dtype=array.dtype, create=True).result()


def _url(path: Path) -> str:
    """A folder as TensorStore names it; unquoted, a name with `%41` would be read and written as another one."""
    return f"file://{urllib.parse.quote(str(path.absolute()))}/"


def _spec(base: Any, place: tuple[str, ...] | None) -> dict[str, Any]:
    name = "vault_index" if place is None else "".join(f"{key}." for key in place)
    return {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": name}}


def _tensorstore() -> Any:
    import tensorstore

    return tensorstore


@contextlib.contextmanager
def _explained(path: Path, action: str = "read") -> Iterator[None]:
    """Turn TensorStore's errors, of several classes and many lines, into one sentence."""
    try:
        yield
    except RunError:
        raise
    except (ValueError, OSError, NotImplementedError, RuntimeError, KeyError, TypeError, MemoryError) as error:
        text = " ".join(str(error).split()).partition(" [")[0][:400]
        if "No space left" in text or "quota exceeded" in text:
            raise RunError(
                f"{path}: disk full; what was complete before stays valid; free some space, then go on"
            ) from error
        remedy = (
            "get the data set again from its source" if action == "read" else "what was complete before stays valid"
        )
        raise RunError(f"{path}: cannot be {action} as a vault ({text}); {remedy}") from error


def _check_folder(path: Path) -> None:
    """Refuse folders with links or without end."""
    for number, entry in enumerate(path.rglob("*")):
        mode = entry.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise RunError(f"{entry}: is a link or a device; a data set holds plain files only")
        if number >= _MAX_FILES:
            raise RunError(f"{path}: more than {_MAX_FILES} files; name the folder of one data set")


def _structure(path: Path) -> dict[tuple[str, ...], tuple[tuple[int, ...], str]]:
    """Shape and type of every leaf that `metadata.json` names."""
    file = path / METADATA
    try:
        body = parsed(read_bounded(file, 1 << 20))
        version = body.get("version")
        if not isinstance(version, (int, float)) or not 1 <= version < 2:
            raise ValueError(f"version: expected 1, found {str(version)[:40]}")
        shapes, dtypes = _flat(body.get("structure_shape"), ()), _flat(body.get("structure_dtype"), ())
        if shapes.keys() != dtypes.keys() or len(shapes) > _MAX_LEAVES:
            raise ValueError(f"expected shapes and types of the same leaves, at most {_MAX_LEAVES}")
        for place, text in dtypes.items():
            if not _TYPE.fullmatch(text):
                raise ValueError(f"{'.'.join(place)}: {text[:60]!r} is not a type")
        return {place: (_shape(place, text), dtypes[place]) for place, text in shapes.items()}
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file}: {one_line(error)}; not a vault, or a damaged one") from error


def _flat(tree: Any, place: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    if isinstance(tree, str):
        return {place: tree}
    if not isinstance(tree, Mapping) or len(place) > 8:
        raise ValueError(f"{'.'.join(place) or 'structure'}: expected text or an object")
    return {key: value for name, branch in tree.items() for key, value in _flat(branch, (*place, name)).items()}


def _shape(place: tuple[str, ...], text: str) -> tuple[int, ...]:
    if not _SHAPE.fullmatch(text):
        raise ValueError(f"{'.'.join(place)}: {text[:60]!r} is not a shape")
    return tuple(int(size) for size in text.strip("()").split(",") if size.strip())


def _check_leaf(path: Path, name: str, leaf: Any, stated: tuple[tuple[int, ...], str], parts: int) -> None:
    """Refuse arrays of another shape or type than stated, and such as nobody could read."""
    shape, dtype = stated
    found, kind = tuple(leaf.shape), leaf.dtype.numpy_dtype
    if len(found) < 2 or (found[0], *found[2:]) != (shape[0], *shape[2:]) or leaf.dtype.name != dtype:
        raise RunError(
            f"{path}: {name}: expected {dtype} {shape} (time apart), found {leaf.dtype.name} {found}; damaged"
        )
    if found[0] != parts or kind.kind not in "fiub":
        raise RunError(f"{path}: {name}: expected numbers of {parts} data sets, found {leaf.dtype.name} {found}")
    chunk = math.prod(leaf.chunk_layout.read_chunk.shape) * kind.itemsize
    if chunk > _MAX_CHUNK or math.prod(found[2:]) * kind.itemsize > _MAX_CHUNK:
        raise RunError(f"{path}: {name}: pieces of {chunk} bytes, expected at most {_MAX_CHUNK}; not a data set")


def _as_bool(name: str, array: np.ndarray) -> np.ndarray:
    """OG-MARL's vaults hold flags as bool or as numbers."""
    if array.dtype == np.bool_:
        return array
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name}: holds other values than 0 and 1")
    return array.astype(bool)
