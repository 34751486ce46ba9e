"""What the machine offers: cores, devices, free memory, the compile cache, and a report of all of it."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import platform
import stat
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("marl-bench", "jax", "jaxlib", "flax", "optax", "numpy", "pandas", "pyarrow", "safetensors")
_EXTRAS = {
    "cuda12": "jax_cuda12_plugin",
    "cuda13": "jax_cuda13_plugin",
    "tpu": "libtpu",
    "slurm": "submitit",
    "h5": "h5py",
    "vault": "flashbax",
    "wandb": "wandb",
}
_DEVICE_FLAG = "xla_force_host_platform_device_count"
_CGROUPS = Path("/sys/fs/cgroup")
_log = logging.getLogger(__name__)
_warned: set[str] = set()


# --- cores -----------------------------------------------------------------------------------------------


def usable_cores() -> int:
    """Number of CPU cores this process may use: affinity mask and container quota respected; at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota in _cpu_quotas():
        count = min(count, math.ceil(quota))
    return max(count, 1)


def use_cpu_cores() -> int | None:
    """Make JAX show one CPU device per usable core, so that packs can be sharded over cores.

    Does nothing once the backend runs, when another platform was chosen (`JAX_PLATFORMS`), or when the user
    set the number of devices.

    Returns:
      count: the number of devices asked for; None if nothing was changed.
    """
    import jax

    chosen = (jax.config.jax_platforms or "cpu").split(",")  # pyright: ignore[reportAttributeAccessIssue]
    already = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    if "cpu" not in chosen or already != -1 or _DEVICE_FLAG in os.environ.get("XLA_FLAGS", ""):
        return None
    count = usable_cores()
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        return None
    return count


# --- memory ----------------------------------------------------------------------------------------------


def free_bytes(device: Any = None) -> int | None:
    """Bytes that can still be allocated on a device; None when it cannot be known.

    Args:
      device: a `jax.Device`; None for the host's memory.
    """
    return _memory(device)[0]


def total_bytes(device: Any = None) -> int | None:
    """Bytes of memory of a device (of the host, container limit respected, if None); None when unknown."""
    return _memory(device)[1]


def _memory(device: Any) -> tuple[int | None, int | None]:
    stats = device.memory_stats() if device is not None else None
    if stats and "bytes_limit" in stats:
        return max(stats["bytes_limit"] - stats.get("bytes_in_use", 0), 0), stats["bytes_limit"]
    if device is not None and device.platform != "cpu":
        return None, None
    return _host_memory()


def _host_memory() -> tuple[int | None, int | None]:
    fields = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines() if ":" in line)
    free = _kilobytes(fields.get("MemAvailable", ""))
    total = _kilobytes(fields.get("MemTotal", ""))
    for limit, used, cached in _memory_limits():
        # The kernel gives cached file pages back before it refuses an allocation.
        room = max(limit - used + cached, 0)
        free = room if free is None else min(free, room)
        total = limit if total is None else min(total, limit)
    return free, total


def _kilobytes(text: str) -> int | None:
    words = text.split()
    return int(words[0]) * 1024 if words and words[0].isdigit() else None


def _memory_limits() -> Iterator[tuple[int, int, int]]:
    """Limit, use and reclaimable page cache, in bytes, of each control group that limits this process."""
    names = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}
    for controller, (limit_file, used_file) in names.items():
        for folder in _cgroup_folders(controller):
            limit, used = _read(folder / limit_file), _read(folder / used_file)
            if limit.isdigit() and used.isdigit():
                lines = [line.split() for line in _read(folder / "memory.stat").splitlines()]
                cached = next((int(line[1]) for line in lines if line[:1] == ["inactive_file"]), 0)
                yield int(limit), int(used), cached


def _cpu_quotas() -> Iterator[float]:
    """Cores allowed by each control group that limits this process."""
    for folder in _cgroup_folders(""):
        yield from _quota(*_read(folder / "cpu.max").partition(" ")[::2])
    for folder in _cgroup_folders("cpu"):
        yield from _quota(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _quota(microseconds: str, period: str) -> Iterator[float]:
    if microseconds.isdigit() and period.isdigit() and int(period) > 0:
        yield int(microseconds) / int(period)


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Control groups of this process, innermost first; limits of any of them hold.

    Args:
      controller: "" for version 2, a name such as "memory" for version 1.
    """
    root = _CGROUPS / controller
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and controller in parts[1].split(","):
            folder = root / parts[2].lstrip("/")
            yield from (place for place in (folder, *folder.parents) if place.is_relative_to(root))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


# --- compile cache ---------------------------------------------------------------------------------------


def cache_directory() -> Path | None:
    """Folder of the persistent compile cache below `XDG_CACHE_HOME` or `~/.cache`; None without a home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "marl-bench" / "jax"
    try:
        return Path.home() / ".cache" / "marl-bench" / "jax"
    except RuntimeError:
        return None


def enable_compile_cache() -> Path | None:
    """Keep compiled programs between processes in a folder that only this user can write.

    JAX runs what it finds there, so a folder that others can write to is not used; a warning says so once.
    A folder that the user has configured in JAX is left as it is.

    Returns:
      path: the folder in use, or None.
    """
    import jax

    configured = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if configured:
        return Path(configured)
    path = cache_directory()
    reason = "there is no home directory" if path is None else _make_private(path)
    if path is None or reason:
        _warn_once(f"compile cache {path or ''}: not used, {reason}; programs are compiled anew in each process")
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    return path


def _make_private(path: Path) -> str:
    """Create `path`; return why it cannot be used, or an empty text."""
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        for folder in (path.parent, path):
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return f"it cannot be made ({error.strerror})"
    return _cache_fault(path)


def _cache_fault(path: Path) -> str:
    """Why a cache folder cannot be trusted, or an empty text."""
    try:
        for folder in (path, path.parent):
            status = folder.stat()
            if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
                return f"{folder} belongs to another user"
            if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return f"others can write to {folder} (chmod 700 makes it usable)"
        base = path.parent.parent.stat().st_mode
    except OSError as error:
        return f"it cannot be examined ({error.strerror})"
    if os.name == "posix" and base & stat.S_IWOTH and not base & stat.S_ISVTX:
        return f"others can replace folders in {path.parent.parent}"
    return "" if os.access(path, os.W_OK) else "it cannot be written"


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        _log.warning("%s", message)


# --- report ----------------------------------------------------------------------------------------------


def doctor() -> str:
    """Report of versions, devices, memory, cores, compile cache and extras, one fact a line (starts the backend)."""
    lines = [f"python        {platform.python_version()} ({platform.system()} {platform.machine()})"]
    lines += [f"{name:<13} {_version(name)}" for name in _PACKAGES]
    lines.append(f"cpu cores     {usable_cores()} usable of {os.cpu_count()}")
    lines.append(f"host memory   {_gigabytes(free_bytes())} free of {_gigabytes(total_bytes())}")
    lines += _device_lines()
    lines.append(f"compile cache {_cache_state()}")
    found = [name for name, module in _EXTRAS.items() if importlib.util.find_spec(module) is not None]
    lines.append(f"extras        {', '.join(found) or 'none'}")
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"


def _device_lines() -> list[str]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        return [f"devices       none: {' '.join(str(error).split())}"]
    return [
        f"device {device.id:<6} {device.platform} {device.device_kind}, "
        f"{_gigabytes(free_bytes(device))} free of {_gigabytes(total_bytes(device))}"
        for device in devices
    ]


def _cache_state() -> str:
    import jax

    configured = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    path = Path(configured) if configured else cache_directory()
    if path is None:
        return "not used, there is no home directory"
    if not path.exists():
        return f"{path} (not made yet)"
    fault = "" if configured else _cache_fault(path)
    if fault:
        return f"{path}: not used, {fault}"
    entries = [entry for entry in path.iterdir() if entry.is_file()]
    return f"{path} ({len(entries)} files, {_gigabytes(sum(entry.stat().st_size for entry in entries))})"
