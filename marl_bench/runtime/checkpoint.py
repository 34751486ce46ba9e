"""Checkpoints of one pytree that are either complete and intact, or not there.

A checkpoint is a folder `step-000000123` with one safetensors file and `manifest.json` (sizes, SHA-256,
versions, metadata). It is written beside, flushed, and renamed into place, so it exists only once its
manifest does. Reading verifies every byte and falls back to the previous checkpoint with a warning.
For states that one process holds in its memory; nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata as package_metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors

from marl_bench.errors import RunError
from marl_bench.runtime import files

FORMAT = 1
"""Version of the layout; a reader refuses any other."""

_DATA = "state.safetensors"
_MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d{9,})")
_PACKAGES = ("marl-bench", "jax", "jaxlib", "flax", "optax", "numpy", "safetensors")
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_log = logging.getLogger(__name__)


class _Damaged(Exception):
    """This checkpoint cannot be trusted; the previous one may be good."""


# --- writing -------------------------------------------------------------------------------------------


def save(directory: Path | str, step: int, tree: Any, metadata: dict[str, Any], keep: int = 2) -> Path:
    """Save a pytree; when this returns, it is on the disk.

    Checkpoints of later steps belong to an abandoned continuation and are deleted, as are all but the
    newest `keep`.

    Args:
      directory: folder of this state's checkpoints; made if missing.
      step: what orders the checkpoints (clocks do not); >= 0.
      tree: pytree of arrays (any dtype that NumPy or JAX knows), Python numbers and typed PRNG keys.
      metadata: JSON values, returned by `restore`.
      keep: number of checkpoints to keep, >= 1.
    Returns:
      path: the folder of this checkpoint.
    Raises:
      RunError: disk full or not writable; older checkpoints are intact then.
      ValueError: when `step` or `keep` is out of range.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step={step}, keep={keep}: step must be >= 0 and keep >= 1")
    directory = Path(directory)
    target = directory / f"step-{step:09d}"
    temporary = directory / f"{files.TEMPORARY_PREFIX}{os.getpid()}-{target.name}"
    arrays, keys, dtypes = _encode(tree)
    data = safetensors.save(arrays)
    body = {
        "format": FORMAT,
        "step": step,
        "metadata": metadata,
        "files": {_DATA: {"size": len(data), "sha256": files.sha256(data)}},
        "keys": keys,
        "dtypes": dtypes,
        "versions": versions(),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _remove_temporaries(directory)
        temporary.mkdir()
        _write_folder(temporary, data, _manifest_bytes(body))
        if target.exists():
            os.replace(target, directory / f"{files.TEMPORARY_PREFIX}{os.getpid()}-old-{target.name}")
        os.replace(temporary, target)
        files.sync_directory(directory)
        _prune(directory, step, keep)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise files.as_run_error(target, error) from error
    return target


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide what a saved state means."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(package_metadata.PackageNotFoundError):
            found[name] = package_metadata.version(name)
    return found


def _write_folder(folder: Path, data: bytes, manifest: bytes) -> None:
    files.write_synced(folder / _DATA, data)
    files.write_synced(folder / _MANIFEST, manifest)
    files.sync_directory(folder)


def _manifest_bytes(body: dict[str, Any]) -> bytes:
    canonical = files.canonical_json(body)
    return files.canonical_json({"body": body, "sha256": files.sha256(canonical)})


def _remove_temporaries(directory: Path) -> None:
    for leftover in directory.glob(f"{files.TEMPORARY_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _prune(directory: Path, step: int, keep: int) -> None:
    steps = _steps(directory)
    kept = [number for number in steps if number <= step][:keep]
    for number, path in steps.items():
        if number not in kept:
            shutil.rmtree(path, ignore_errors=True)
    _remove_temporaries(directory)


def _steps(directory: Path) -> dict[int, Path]:
    """Checkpoint folders by step, newest first."""
    found = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        match = _STEP.fullmatch(path.name)
        if match and path.is_dir():
            found[int(match[1])] = path
    return dict(sorted(found.items(), reverse=True))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _encode(tree: Any) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, str]]:
    """Leaves by name as plain arrays, the PRNG implementation of keys, and dtypes stored as raw bits."""
    arrays: dict[str, np.ndarray] = {}
    keys: dict[str, str] = {}
    dtypes: dict[str, str] = {}
    for name, leaf in _named_leaves(tree):
        if _is_key(leaf):
            keys[name] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf, order="C")
        if array.dtype.kind not in "biuf" or array.dtype.name.startswith(("bfloat", "float8", "float4")):
            array = _as_bits(name, array, dtypes)
        arrays[name] = array
    return arrays, keys, dtypes


def _as_bits(name: str, array: np.ndarray, dtypes: dict[str, str]) -> np.ndarray:
    """View an array of a dtype outside safetensors' NumPy table (bfloat16, complex) as unsigned integers."""
    if array.dtype.hasobject or array.dtype.kind in "USMm":
        raise TypeError(f"{name}: a leaf of dtype {array.dtype} cannot be saved; use numeric arrays")
    dtypes[name] = array.dtype.name
    unsigned = _UNSIGNED.get(array.dtype.itemsize)
    if unsigned is None:
        return np.frombuffer(array.tobytes(), np.uint8).reshape(*array.shape, array.dtype.itemsize)
    return array.view(unsigned)


def _named_leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(path) or "value", leaf


# --- reading -------------------------------------------------------------------------------------------


def restore(
    directory: Path | str, template: Any, usable: Callable[[dict[str, Any]], bool] | None = None
) -> tuple[Any, dict[str, Any], int] | None:
    """Load the newest intact checkpoint into the structure of `template`.

    Args:
      directory: what was given to `save`.
      template: pytree of arrays or `jax.ShapeDtypeStruct` with the shapes and dtypes to expect. Leaves that
        are NumPy arrays or Python numbers come back as such; the others as `jax.Array`, placed like a
        committed template leaf. Weak types are not restored.
      usable: judges a checkpoint by its metadata; one that is refused is passed over for the one before it.
    Returns:
      tree, metadata, step; or None when there is no intact checkpoint (each damaged one is named in a warning).
    Raises:
      RunError: for a leaf that is missing, unknown, or of another shape or dtype (naming both), or for a
        checkpoint of another format.
    """
    found = _newest_intact(Path(directory), usable)
    if found is None:
        return None
    path, arrays, body = found
    named = list(_named_leaves(template))
    _check_names(path, {name for name, _ in named}, set(arrays))
    leaves = [_decode(path, name, arrays[name], leaf, body["keys"].get(name)) for name, leaf in named]
    return jax.tree.unflatten(jax.tree.structure(template), leaves), body["metadata"], body["step"]


def restore_raw(directory: Path | str) -> tuple[dict[str, np.ndarray], dict[str, Any], int]:
    """Load the newest intact checkpoint without a template.

    Returns:
      arrays: leaf name (`jax.tree_util.keystr`) to array; PRNG keys as their key data.
      metadata, step: as saved.
    Raises:
      RunError: when there is none, or `directory` is a pickle file, which is never opened.
    """
    directory = Path(directory)
    if directory.suffix.lower() in (".pkl", ".pickle", ".pt", ".pth", ".joblib"):
        raise RunError(f"{directory}: a pickle can run any code when opened, so it is refused; give a run directory")
    found = _newest_intact(directory)
    if found is None:
        raise RunError(f"{directory}: holds no intact checkpoint")
    _, arrays, body = found
    return arrays, body["metadata"], body["step"]


def _newest_intact(
    directory: Path, usable: Callable[[dict[str, Any]], bool] | None = None
) -> tuple[Path, dict[str, np.ndarray], dict[str, Any]] | None:
    for leftover in directory.glob(f"{files.TEMPORARY_PREFIX}*") if directory.is_dir() else ():
        _log.warning("%s: a checkpoint whose writing was interrupted; ignored", leftover)
    damaged = []
    for step, path in _steps(directory).items():
        try:
            arrays, body = _load(path, step)
        except _Damaged as error:
            _log.warning("%s; falling back to the checkpoint before it", error)
            damaged.append(path)
            continue
        if usable is not None and not usable(body["metadata"]):
            continue
        if damaged:
            _log.warning("%s: used instead of the damaged %s", path, ", ".join(p.name for p in damaged))
        return path, arrays, body
    return None


def _load(path: Path, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    body = _read_manifest(path / _MANIFEST)
    try:
        found, record = body["step"], body["files"][_DATA]
        size, digest, dtypes = record["size"], record["sha256"], dict(body["dtypes"])
        dict(body["keys"])
    except (KeyError, TypeError, ValueError) as error:
        raise _Damaged(f"{path / _MANIFEST}: an entry is missing ({error})") from error
    if found != step:
        raise _Damaged(f"{path / _MANIFEST}: belongs to step {found}")
    data = _read(path / _DATA, size)
    if files.sha256(data) != digest:
        raise _Damaged(f"{path / _DATA}: its SHA-256 is not the one in the manifest")
    try:
        files.check_safetensors(data)
        arrays = safetensors.load(data)
        for name, dtype in dtypes.items():
            arrays[name] = _from_bits(arrays[name], np.dtype(getattr(jnp, dtype, dtype)))
    except Exception as error:
        # A file that fits its manifest can still be hostile; the parser may then fail in any way.
        raise _Damaged(f"{path / _DATA}: not a valid safetensors file ({error})") from error
    return arrays, body


def _from_bits(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.itemsize in _UNSIGNED:
        return array.view(dtype)
    return np.frombuffer(array.tobytes(), dtype).reshape(array.shape[:-1])


def _read(path: Path, size: int) -> bytes:
    try:
        actual = path.stat().st_size
        if actual != size:
            raise _Damaged(f"{path}: {actual} bytes instead of {size}")
        return path.read_bytes()
    except OSError as error:
        raise _Damaged(f"{path}: cannot be read ({error.strerror})") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest's body, once its own digest and its exact text are verified."""
    try:
        text = path.read_bytes()
        manifest = json.loads(text)
        body = manifest["body"]
        intact = text == files.canonical_json(manifest) and manifest["sha256"] == files.sha256(
            files.canonical_json(body)
        )
        format_found = body["format"]
    except OSError as error:
        raise _Damaged(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Damaged(f"{path}: not a manifest ({type(error).__name__})") from error
    if not intact:
        raise _Damaged(f"{path}: its SHA-256 is not the one it states")
    if format_found != FORMAT:
        raise RunError(
            f"{path}: checkpoint format {format_found}, this version reads {FORMAT}; "
            f"use marl-bench {body.get('versions', {}).get('marl-bench', 'of the time')}"
        )
    return body


def _check_names(path: Path, expected: set[str], found: set[str]) -> None:
    for names, word in ((expected - found, "missing"), (found - expected, "unknown here")):
        if names:
            raise RunError(f"{path}: leaf {min(names)} is {word} ({len(names)} such); another configuration saved it")


def _decode(path: Path, name: str, array: np.ndarray, template: Any, key_impl: str | None) -> Any:
    if _is_key(template) != (key_impl is not None):
        raise RunError(f"{path}: leaf {name} is a PRNG key on one side only; another configuration saved it")
    if key_impl is not None:
        return _decode_key(path, name, array, template, key_impl)
    expected = template if hasattr(template, "dtype") else np.asarray(template)
    if array.shape != tuple(expected.shape) or array.dtype != expected.dtype:
        raise RunError(
            f"{path}: leaf {name} is {array.dtype}{list(array.shape)} in the checkpoint "
            f"but {expected.dtype}{list(expected.shape)} here; resume with the configuration that saved it"
        )
    if isinstance(template, (bool, int, float, complex)):
        return array.item()
    if isinstance(template, (np.ndarray, np.generic)):
        return array
    return _placed(jnp.asarray(array), template)


def _decode_key(path: Path, name: str, array: np.ndarray, template: Any, key_impl: str) -> jax.Array:
    key = jax.random.wrap_key_data(jnp.asarray(array), impl=key_impl)
    if key.shape != template.shape or key.dtype != template.dtype:
        raise RunError(
            f"{path}: leaf {name} is {key.dtype}{list(key.shape)} in the checkpoint "
            f"but {template.dtype}{list(template.shape)} here; resume with the configuration that saved it"
        )
    return _placed(key, template)


def _placed(array: jax.Array, template: Any) -> jax.Array:
    committed = isinstance(template, jax.Array) and template.committed
    return jax.device_put(array, template.sharding) if committed else array
