"""Reading a run directory: one row a cell (`results.parquet`, `cells.parquet`), metrics over time (`metrics/`).

Only Parquet is read; nothing is unpickled. A damaged metric part costs its own rows, never the run: it is skipped and
named in a warning. A damaged table of results is an error, because silence about missing cells would bias a claim.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from marl_bench.naming import nearest

if TYPE_CHECKING:
    import pandas
    import pyarrow

METRIC_KEYS = ("cell", "env_steps", "agent_steps", "updates")
"""Columns that every metric part has."""

_MAGIC = b"PAR1"
_PARTS_PER_PACK = 1_000_000  # every pack numbers its parts from a multiple of this
_PART = re.compile(r"part-(\d+)\.parquet")
_REMEDY = "run it again with --resume to write it anew"


def _run_directory(run_dir: str | Path) -> Path:
    path = Path(run_dir).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"run directory {str(path)!r} does not exist; check the path given to --out")
    if not path.is_dir():
        raise NotADirectoryError(f"run directory {str(path)!r} is a file; give the directory above it")
    return path


def _damage(path: Path) -> str | None:
    """What is visibly wrong with a Parquet file: an unfinished write lacks the mark at its end."""
    size = path.stat().st_size
    if size < 12:
        return f"it has only {size} bytes"
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(-4, 2)
        tail = file.read(4)
    if head != _MAGIC or tail != _MAGIC:
        return "it is not a complete Parquet file"
    return None


def _read(path: Path, columns: Sequence[str] | None = None) -> tuple[pyarrow.Table, list[str]]:
    """Read one Parquet file, verifying page checksums where the writer stored them.

    Args:
      path: an existing file.
      columns: columns to read, those that the file has; None for all.
    Returns:
      the table, and the names of all columns in the file.
    Raises:
      OSError: when the file is damaged, with the reason.
    """
    import pyarrow
    import pyarrow.parquet

    damage = _damage(path)
    if damage is not None:
        raise OSError(damage)
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            known = list(file.schema_arrow.names)
            wanted = known if columns is None else [name for name in columns if name in known]
            return file.read(columns=wanted), known
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise OSError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _load_table(run_dir: str | Path, name: str) -> pandas.DataFrame:
    path = _run_directory(run_dir) / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: the run has not finished; {_REMEDY}")
    try:
        return _read(path)[0].to_pandas()
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error}); {_REMEDY}") from error


def load_results(run_dir: str | Path) -> pandas.DataFrame:
    """Read `results.parquet`: one row a cell, columns by dotted path (`env.dilemma_strength`, `seed`, ...).

    Args:
      run_dir: a run directory.
    Raises:
      FileNotFoundError: when the directory or the file is missing.
      OSError: when the file is damaged, or is not the one whose SHA-256 `summary.json` records.
    """
    results = _load_table(run_dir, "results.parquet")
    path = _run_directory(run_dir) / "results.parquet"
    recorded = _recorded_digest(path.parent)
    if recorded is not None and recorded != hashlib.sha256(path.read_bytes()).hexdigest():
        raise OSError(f"{path} is not the file that summary.json records; {_REMEDY}")
    return results


def _recorded_digest(folder: Path) -> str | None:
    """SHA-256 of the results according to `summary.json`; None where there is none to compare with."""
    path = folder / "summary.json"
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        warnings.warn(f"{path} cannot be read ({error}); the results are not verified", RuntimeWarning, stacklevel=3)
        return None
    return summary.get("results_sha256") if isinstance(summary, dict) else None


def load_cells(run_dir: str | Path) -> pandas.DataFrame:
    """Read `cells.parquet`: the exact configuration of every cell, one row a cell.

    Args:
      run_dir: a run directory.
    Raises:
      FileNotFoundError: when the directory or the file is missing. OSError: when the file is damaged.
    """
    return _load_table(run_dir, "cells.parquet")


def _parts(folder: Path) -> dict[int, Path]:
    """Parts by number, in order; other names (half-written temporary files) are not parts."""
    found = [(int(match[1]), path) for path in folder.glob("*") if (match := _PART.fullmatch(path.name))]
    return dict(sorted(found))


def load_metrics(run_dir: str | Path, columns: Sequence[str] | None = None) -> pandas.DataFrame:
    """Read `metrics/part-*.parquet` in order: one row a cell and logged update.

    A part that is damaged or missing is skipped with a `RuntimeWarning` that names it. Parts of several packs may
    differ in their metrics; a metric that a part lacks is NaN there.

    Args:
      run_dir: a run directory.
      columns: metrics to read besides `cell`, `env_steps`, `agent_steps` and `updates`; None for all.
    Raises:
      FileNotFoundError: when the directory is missing or has no part.
      OSError: when every part is damaged.
      ValueError: when a part lacks one of the four key columns.
      LookupError: when no part has one of `columns`, with the nearest name.
    """
    import pyarrow

    folder = _run_directory(run_dir) / "metrics"
    parts = _parts(folder) if folder.is_dir() else {}
    if not parts:
        raise FileNotFoundError(f"{folder} holds no part-*.parquet: the run has logged nothing yet")
    last = {number // _PARTS_PER_PACK: number for number in parts}
    lost = [n for pack, end in last.items() for n in range(pack * _PARTS_PER_PACK, end) if n not in parts]
    if lost:
        warnings.warn(f"{folder} lacks the parts {lost}; {_REMEDY}", RuntimeWarning, stacklevel=2)
    wanted = None if columns is None else list(dict.fromkeys((*METRIC_KEYS, *columns)))
    tables: list[pyarrow.Table] = []
    seen: set[str] = set()
    for path in parts.values():
        try:
            table, names = _read(path, wanted)
        except OSError as error:
            warnings.warn(f"{path} is damaged and skipped ({error}); {_REMEDY}", RuntimeWarning, stacklevel=2)
            continue
        lacking = [name for name in METRIC_KEYS if name not in names]
        if lacking:
            raise ValueError(f"{path} lacks the columns {', '.join(lacking)}: it is not a metric part of this program")
        tables.append(table)
        seen.update(names)
    if not tables:
        raise OSError(f"no part in {folder} can be read; {_REMEDY}")
    for name in wanted or ():
        if name not in seen:
            raise LookupError(f"{folder} has no metric {name!r}{nearest(name, seen)}")
    merged = pyarrow.concat_tables(tables, promote_options="permissive").to_pandas()
    return merged if wanted is None else merged[wanted]
