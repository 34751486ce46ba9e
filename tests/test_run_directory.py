"""Run directories: whose they are, what state they are in, and what damage does to them."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from marl_bench.errors import RunError, UsageError
from marl_bench.runtime import files
from marl_bench.runtime.run_directory import RunDirectory, read_parquet, to_parquet

CONFIG = {"env": "world", "env.side": [3], "learner.hidden_sizes": [(96,)], "seeds": [0, 1], "steps": None}


def rows(start, count=4):
    return pd.DataFrame({"cell": range(count), "env_steps": start, "loss": [0.5 * i for i in range(count)]})


def test_life_of_a_run(tmp_path):
    path = tmp_path / "ein Lauf ü" / "a"
    run = RunDirectory(path)
    assert run.state == "new"
    assert run.start(CONFIG) == "new"
    run.write_cells(rows(0))
    run.append_metrics(0, rows(10))
    run.close()
    with pytest.raises(UsageError, match="unfinished run; add --resume"):
        RunDirectory(path).start(CONFIG)
    with RunDirectory(path) as again:
        assert again.start(CONFIG, resume=True) == "resumable"
        again.append_metrics(1, rows(20))
        again.finish(rows(99), {"seconds": 1.5})
    done = RunDirectory(path)
    assert (done.start(CONFIG), done.start(CONFIG, resume=True), done.state) == ("finished",) * 3
    pd.testing.assert_frame_equal(done.read_results(), rows(99))
    pd.testing.assert_frame_equal(done.read_cells(), rows(0))
    assert done.read_metrics()["env_steps"].tolist() == [10] * 4 + [20] * 4
    assert done.read_summary()["seconds"] == 1.5
    assert not list(path.rglob(".tmp-*"))


def test_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunDirectory("runs/a") as run:
        assert run.start(CONFIG) == "new"
    assert (tmp_path / "runs" / "a" / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"env.side": [4]}, "env.side was [3], now [4]"),
        ({"learner.hidden_sizes": [(64,)]}, "learner.hidden_sizes was [[96]], now [[64]]"),
        ({"steps": 5, "log_every": 1}, "steps was null, now 5"),
        ({"env.new": [1]}, "env.new was null, now [1]"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_configuration_is_refused_by_its_first_field(tmp_path, change, words, finished):
    with RunDirectory(tmp_path) as run:
        run.start(CONFIG)
        if finished:
            run.finish(rows(1), {})
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UsageError) as caught:
        RunDirectory(tmp_path).start({**CONFIG, **change}, resume=True)
    assert words in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_foreign_folders_and_files_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="not empty and not a run of marl-bench"):
        RunDirectory(tmp_path).start(CONFIG)
    with pytest.raises(RunError, match=r"thesis\.tex: is a file"):
        RunDirectory(tmp_path / "thesis.tex").start(CONFIG)
    with pytest.raises(RunError, match="cannot be written"):
        RunDirectory(tmp_path / "thesis.tex" / "run").start(CONFIG)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.tex"]
    with pytest.raises(RunError, match="cannot be written"):
        RunDirectory("/proc/run").start(CONFIG)


def test_a_start_that_died_early_can_be_repeated(tmp_path):
    (tmp_path / f"{files.TEMPORARY_PREFIX}1-x").write_text("left by a killed process")
    with RunDirectory(tmp_path) as run:
        assert run.start(CONFIG) == "new"
    (tmp_path / "config.yaml").unlink()
    with RunDirectory(tmp_path) as run:
        assert run.start(CONFIG, resume=True) == "new"


def test_second_process_is_refused_with_the_pid_of_the_first(tmp_path):
    code = (
        "import sys; from marl_bench.runtime.run_directory import RunDirectory\n"
        f"RunDirectory({str(tmp_path)!r}).start({CONFIG!r}) and print('on', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    with pytest.raises(RunError, match=f"in use by process {process.pid}"):
        RunDirectory(tmp_path).start(CONFIG, resume=True)
    process.kill()
    process.wait()
    with RunDirectory(tmp_path) as run:
        assert run.start(CONFIG, resume=True) == "resumable"


def test_parts_are_ordered_by_number_and_can_be_replaced(tmp_path):
    run = RunDirectory(tmp_path)
    for index in (2, 0, 1):
        run.append_metrics(index, rows(index))
    os.utime(run.part_path(0), (2e9, 2e9))
    assert run.read_metrics()["env_steps"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    run.append_metrics(1, rows(7))
    assert list(run.parts()) == [0, 1, 2]
    assert run.read_metrics()["env_steps"].tolist() == [0] * 4 + [7] * 4 + [2] * 4
    assert RunDirectory(tmp_path / "nothing").read_metrics().empty


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "zero-length": lambda data: b"",
    "not parquet": lambda data: b"hello",
    "flipped in a page": lambda data: data[:30] + bytes([data[30] ^ 4]) + data[31:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_part_is_named_and_left_out(tmp_path, caplog, kind):
    run = RunDirectory(tmp_path)
    for index in range(3):
        run.append_metrics(index, rows(index))
    run.part_path(1).write_bytes(DAMAGE[kind](run.part_path(1).read_bytes()))
    assert run.read_metrics()["env_steps"].tolist() == [0] * 4 + [2] * 4
    assert "part-00001.parquet" in caplog.text


@pytest.mark.parametrize("damage", ["results", "summary", "no results"])
def test_damaged_end_counts_as_unfinished(tmp_path, caplog, damage):
    with RunDirectory(tmp_path) as run:
        run.start(CONFIG)
        run.finish(rows(1), {})
    results = tmp_path / "results.parquet"
    if damage == "results":
        data = bytearray(results.read_bytes())
        data[len(data) // 2] ^= 1
        results.write_bytes(data)
    elif damage == "summary":
        (tmp_path / "summary.json").write_text("{")
    else:
        results.unlink()
    with RunDirectory(tmp_path) as run:
        assert run.start(CONFIG, resume=True) == "resumable"
        assert "results.parquet: does not match" in caplog.text
        run.finish(rows(1), {})
        assert run.finished


def test_killed_between_results_and_summary(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def dying(path, data):
        if path.name == "summary.json":
            raise Killed
        write(path, data)

    write = files.write_atomic
    with RunDirectory(tmp_path) as run:
        run.start(CONFIG)
        monkeypatch.setattr(files, "write_atomic", dying)
        with pytest.raises(Killed):
            run.finish(rows(1), {})
    monkeypatch.undo()
    assert RunDirectory(tmp_path).state == "resumable"


def test_damaged_configuration_is_named(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.start(CONFIG)
    for text in ("- a", "[", "!!python/name:os.system", "\x00"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(RunError, match=r"config\.yaml: damaged"):
            RunDirectory(tmp_path).start(CONFIG, resume=True)


def test_folder_removed_while_running(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.start(CONFIG)
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(RunError, match=r"part-00000\.parquet: cannot be written"):
        run.append_metrics(0, rows(0))
    run.close()


def test_names_from_data_are_checked(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.subfolder("report-1") == tmp_path / "report-1"
    for name in ("../../etc", "a/b", "", "x" * 300, "CON", "ä", ".hidden"):
        with pytest.raises(ValueError, match="folder name"):
            run.subfolder(name)


def test_configuration_carries_its_digest(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.start(CONFIG)
        assert (tmp_path / "config.yaml").read_text().splitlines()[0].endswith(files.digest_of(CONFIG))
        assert run.read_config() == json.loads(json.dumps(CONFIG))


def test_parquet_bytes_are_a_function_of_the_table(tmp_path):
    assert to_parquet(rows(3)) == to_parquet(rows(3))
    (tmp_path / "x").write_bytes(to_parquet(rows(3)))
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "x"), rows(3))
    with pytest.raises(RunError, match="cannot be read"):
        read_parquet(tmp_path / "none")
