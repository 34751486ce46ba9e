"""Files that can be trusted: atomic writes, digests, a judge of safetensors headers, the lock of a run directory."""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import logging
import math
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from marl_bench.errors import RunError

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind.
    fcntl = None

TEMPORARY_PREFIX = ".tmp-"
"""Start of the names of files and folders that a killed process may leave behind; always safe to delete."""

_log = logging.getLogger(__name__)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
# The safetensors format's own limit.
_MAX_HEADER = 100_000_000
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


def as_run_error(path: Path | str, error: OSError) -> RunError:
    """The sentence for an operating-system failure at `path`."""
    if error.errno in _FULL:
        return RunError(f"{path}: disk full; free some space, then start again with --resume")
    return RunError(f"{path}: cannot be written ({error.strerror or error})")


def sync_directory(path: Path) -> None:
    """Flush a folder's entries to the disk (a no-op where the system cannot open folders)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and flush it to the disk. Raises OSError, FileExistsError included."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write `data` so that after a crash `path` holds either its old content or all of the new.

    Raises:
      RunError: naming the file and the reason (disk full, folder gone, no permission).
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        temporary.unlink(missing_ok=True)
        write_synced(temporary, data)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise as_run_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, ASCII; tuples as lists."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def digest_of(value: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of a mapping."""
    return sha256(canonical_json(value))


def git_revision() -> str | None:
    """Commit of the checkout this package runs from, "-dirty" if changed; None for an installed copy or without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def check_safetensors(data: bytes) -> None:
    """Judge a safetensors file before anything is allocated for it.

    The header must describe exactly the bytes that follow: no gap, no overlap, nothing left over. Layout (from the
    format's README): 8 bytes little-endian header length, JSON header, data.

    Args:
      data: the whole file.
    Raises:
      ValueError: naming the tensor and the first fault.
    """
    if len(data) < 8:
        raise ValueError(f"{len(data)} bytes are too few for a header")
    length = int.from_bytes(data[:8], "little")
    if length > _MAX_HEADER or 8 + length > len(data):
        raise ValueError(f"a header of {length} bytes does not fit")
    header = _parse_header(data[8 : 8 + length])
    spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise ValueError(f"tensor {name!r} starts at {begin}, expected {position} (overlap or gap)")
        position = end
    if position != len(data) - 8 - length:
        raise ValueError(f"the header describes {position} bytes of data, the file has {len(data) - 8 - length}")


def _parse_header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError as error:
        raise ValueError("the header is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    return header


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("the header names a tensor twice")
    return result


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name!r} has no dtype, shape and offsets") from error
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise ValueError(f"tensor {name!r} has an unknown dtype, shape or offset")
    whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    if dtype not in _ITEM_BYTES or not whole:
        raise ValueError(f"tensor {name!r} has an unknown dtype, shape or offset")
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ValueError(f"tensor {name!r} of shape {shape} does not fit its {end - begin} bytes")
    return begin, end, name


class Lock:
    """Exclusive use of a run directory: an advisory lock on a file that names its owner.

    The operating system drops the lock when its process dies, however it dies, so a stale file never
    blocks. A file left by *another machine* does block, because shared file systems do not all pass
    advisory locks on; the message says how to go on.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
          RunError: when another process holds it (naming its pid and host), or the file cannot be written.
        """
        if self._descriptor is not None:
            return
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise as_run_error(self.path, error) from error
        try:
            self._claim(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise as_run_error(self.path, error) from error
        except RunError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _claim(self, descriptor: int) -> None:
        granted = _try_lock(descriptor)
        owner = _read_owner(descriptor)
        if granted is False or (owner and (_elsewhere(owner) or (granted is None and _alive(owner)))):
            who = f"process {owner.get('pid', '(unknown)')} on {owner.get('host', 'this host')}"
            since = owner.get("since", "an unknown time")
            raise RunError(
                f"{self.path.parent}: in use by {who} since {since}; wait for it to end, "
                f"or, if it is gone, delete {self.path}"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, canonical_json(_this_process()), 0)
        os.fsync(descriptor)

    def release(self) -> None:
        """Give the lock back; the emptied file stays, since deleting it would race with another start."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            os.ftruncate(descriptor, 0)
        except OSError as error:
            _log.warning("%s: cannot be emptied (%s)", self.path, error.strerror)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _try_lock(descriptor: int) -> bool | None:
    """True if locked, False if somebody else has it, None if this file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _machine() -> str:
    """Identity of the running kernel, shared by the containers on it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _this_process() -> dict[str, Any]:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "machine": _machine(), "since": since}


def _read_owner(descriptor: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _elsewhere(owner: dict[str, Any]) -> bool:
    """Was the file left by another machine? (The same name with another kernel is a reboot.)"""
    return owner.get("machine") != _machine() and owner.get("host") != socket.gethostname()


def _alive(owner: dict[str, Any]) -> bool:
    """May the recorded process still run here? True when it cannot be known."""
    pid = owner.get("pid")
    if os.name != "posix" or not isinstance(pid, int) or pid <= 0:
        return True
    if owner.get("machine") != _machine():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
