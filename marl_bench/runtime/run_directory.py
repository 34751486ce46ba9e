"""The folder of one run: what it holds, when it counts as finished, who may use it.

    .marl-bench            marks the folder as ours
    .lock                  who is writing to it
    config.yaml            the resolved configuration and, as a comment, its digest
    cells.parquet          one row per cell
    metrics/part-*.parquet one file per flush, in order of its number
    checkpoints/pack-*/    see `checkpoint`
    packs/pack-*           results of each pack that has ended
    failed/                state of a run that met NaN, kept for inspection
    results.parquet        one row per cell, once training has ended
    summary.json           written last: its presence, with the digest of the results, means finished

Every file is written atomically. Parquet pages carry checksums, verified when read.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml

from marl_bench.errors import RunError, UsageError
from marl_bench.naming import safe_name
from marl_bench.runtime import files

if TYPE_CHECKING:
    import pandas as pd

State = Literal["new", "resumable", "finished"]
"""What a run directory holds: nothing yet, an unfinished run, or a finished one."""

_MARKER = ".marl-bench"
_LOCK = ".lock"
_PART = re.compile(r"part-(\d{5,})\.parquet")
_log = logging.getLogger(__name__)


class RunDirectory:
    """One run on the disk. Use `start` to write to it; reading needs no lock.

    Attributes:
      path: the folder.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._lock = files.Lock(self.path / _LOCK)

    # --- opening and closing -----------------------------------------------------------------------

    def start(self, config: Mapping[str, Any], *, resume: bool = False) -> State:
        """Make or reopen the folder for a run of `config`, and lock it unless the run is finished.

        Args:
          config: the resolved configuration (`SweepConfig.to_mapping()`), JSON values.
          resume: allow an unfinished run to be continued.
        Returns:
          state: "new", "resumable" (continue from its checkpoints) or "finished" (nothing to do).
        Raises:
          RunError: the folder is foreign, cannot be written, or is in use by another process.
          UsageError: it holds a run of another configuration (naming the first differing field), or an
            unfinished one and `resume` is False.
        """
        self._claim_folder()
        if self.config_path.exists():
            self._compare(config)
            if self.finished:
                return "finished"
        self._lock.acquire()
        try:
            return self._start_locked(config, resume)
        except BaseException:
            self.close()
            raise

    def _claim_folder(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            names = [entry.name for entry in self.path.iterdir()]
        except FileExistsError as error:
            raise RunError(f"{self.path}: is a file; choose another --out") from error
        except OSError as error:
            raise files.as_run_error(self.path, error) from error
        if _MARKER in names:
            return
        if any(not name.startswith(files.TEMPORARY_PREFIX) for name in names):
            raise RunError(f"{self.path}: is not empty and not a run of marl-bench; choose another --out")
        files.write_atomic(self.path / _MARKER, files.canonical_json({"format": 1}))

    def _start_locked(self, config: Mapping[str, Any], resume: bool) -> State:
        # The state is read again: the previous owner may have gone on until the lock was granted.
        if not self.config_path.exists():
            text = f"# marl-bench configuration, digest {files.digest_of(config)}\n" + yaml.safe_dump(
                _plain(config), sort_keys=False, allow_unicode=True, default_flow_style=None
            )
            files.write_atomic(self.config_path, text.encode())
            return "new"
        self._compare(config)
        if self.finished:
            self.close()
            return "finished"
        if not resume:
            raise UsageError(
                f"{self.path}: holds an unfinished run; add --resume to continue it, or choose another --out"
            )
        return "resumable"

    def _compare(self, config: Mapping[str, Any]) -> None:
        stored = self.read_config()
        wanted = _plain(config)
        for key in dict.fromkeys((*wanted, *stored)):
            if files.canonical_json(stored.get(key)) != files.canonical_json(wanted.get(key)):
                raise UsageError(
                    f"{self.path}: holds a run of another configuration: {key} was {_shown(stored.get(key))}, "
                    f"now {_shown(wanted.get(key))}; choose another --out"
                )

    def close(self) -> None:
        """Release the lock (idempotent)."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- state -------------------------------------------------------------------------------------

    @property
    def config_path(self) -> Path:
        """Path of `config.yaml`."""
        return self.path / "config.yaml"

    @property
    def state(self) -> State:
        """What the folder holds; "new" also for one that does not exist."""
        if self.finished:
            return "finished"
        return "resumable" if self.config_path.exists() else "new"

    @property
    def finished(self) -> bool:
        """True once `finish` has completed and the results are intact; damage is named in a warning."""
        summary_path, results_path = self.path / "summary.json", self.path / "results.parquet"
        if not summary_path.exists():
            return False
        try:
            recorded = self.read_summary()["results_sha256"]
            intact = recorded == files.sha256(results_path.read_bytes())
        except (RunError, KeyError, OSError):
            intact = False
        if not intact:
            _log.warning("%s: does not match %s; the run counts as unfinished", results_path, summary_path.name)
        return intact

    def read_config(self) -> dict[str, Any]:
        """The stored configuration. Raises RunError when it is missing or damaged."""
        try:
            text = self.config_path.read_text(encoding="utf-8")
            config = yaml.safe_load(text)
        except OSError as error:
            raise RunError(f"{self.config_path}: cannot be read ({error.strerror})") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{self.config_path}: damaged; choose another --out or restore the file") from error
        if not isinstance(config, dict):
            raise RunError(f"{self.config_path}: damaged; choose another --out or restore the file")
        return config

    def checkpoint_directory(self, pack: int) -> Path:
        """Folder of the checkpoints of one pack."""
        return self.path / "checkpoints" / f"pack-{pack:04d}"

    def subfolder(self, name: str) -> Path:
        """A folder for something whose name comes from data. Raises ValueError for an unsafe name."""
        return self.path / safe_name(name, "folder name")

    # --- tables ------------------------------------------------------------------------------------

    def write_cells(self, cells: pd.DataFrame) -> None:
        """Write `cells.parquet`: one row per cell. Raises RunError when it cannot."""
        files.write_atomic(self.path / "cells.parquet", to_parquet(cells))

    def read_cells(self) -> pd.DataFrame:
        """The table of cells. Raises RunError when it is missing or damaged."""
        return read_parquet(self.path / "cells.parquet")

    def part_path(self, part_index: int) -> Path:
        """Path of one metrics part."""
        return self.path / "metrics" / f"part-{part_index:05d}.parquet"

    def append_metrics(self, part_index: int, rows: pd.DataFrame) -> None:
        """Write one metrics part, replacing a part of the same number. Raises RunError when it cannot."""
        path = self.part_path(part_index)
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise files.as_run_error(path, error) from error
        files.write_atomic(path, to_parquet(rows))

    def parts(self) -> dict[int, Path]:
        """Metrics parts by number, in order."""
        folder = self.path / "metrics"
        matches = ((_PART.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
        return dict(sorted((int(match[1]), path) for match, path in matches if match))

    def read_metrics(self) -> pd.DataFrame:
        """All metrics rows in the order of the parts; a damaged part is left out with a warning naming it."""
        import pandas as pd

        tables = []
        for path in self.parts().values():
            try:
                tables.append(read_parquet(path))
            except RunError as error:
                _log.warning("%s; its rows are left out", error)
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    # --- the end -----------------------------------------------------------------------------------

    def finish(self, results: pd.DataFrame, summary: Mapping[str, Any]) -> None:
        """Write `results.parquet`, then `summary.json`; from then on the run is finished.

        Args:
          results: one row per cell.
          summary: JSON values; the digest of the results is added.
        Raises:
          RunError: when they cannot be written.
        """
        data = to_parquet(results)
        files.write_atomic(self.path / "results.parquet", data)
        text = json.dumps({**summary, "results_sha256": files.sha256(data)}, indent=2)
        files.write_atomic(self.path / "summary.json", text.encode())

    def read_results(self) -> pd.DataFrame:
        """The table of results. Raises RunError when it is missing or damaged."""
        return read_parquet(self.path / "results.parquet")

    def read_summary(self) -> dict[str, Any]:
        """The summary. Raises RunError when it is missing or damaged."""
        path = self.path / "summary.json"
        try:
            summary = json.loads(path.read_bytes())
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path}: damaged; the run counts as unfinished") from error
        if not isinstance(summary, dict):
            raise RunError(f"{path}: damaged; the run counts as unfinished")
        return summary


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as YAML and JSON give it back: tuples as lists."""
    return json.loads(json.dumps(dict(config)))


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def to_parquet(table: pd.DataFrame) -> bytes:
    """Parquet bytes of a table, with page checksums; equal tables give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def read_parquet(path: Path | str) -> pd.DataFrame:
    """Read a Parquet file, verifying its page checksums.

    Raises:
      RunError: naming the file, when it is missing, truncated or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = Path(path).read_bytes()
        return pq.read_table(pa.BufferReader(data), page_checksum_verification=True).to_pandas()
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(f"{path}: cannot be read or is damaged ({reason[0][:160]})") from error
