"""Data sets on the disk: what is written is read, here and by flashbax; what is complete stays valid; other layouts."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import sys

import numpy as np
import pytest
from small_datasets import assert_same, episodes

from marl_bench import cli
from marl_bench.datasets import cfcql_h5, omar, stored, vault, writer
from marl_bench.datasets.manifest import FOLDER, MANIFEST, ROOT, Manifest
from marl_bench.datasets.schema import LAST_FIELDS, joined
from marl_bench.datasets.stored import open_dataset
from marl_bench.datasets.writer import DatasetWriter, write_dataset
from marl_bench.errors import RunError, UsageError
from marl_bench.experiments.dataset_files import exported, imported, unique_share

PARTS = (episodes(3, 4, 1, 6), episodes(2, 5, seed=1))
MANIFEST_OF_PARTS = Manifest(
    world="equal_line",
    fields={"agents": 3, "pair": (1, 2.5)},
    behaviour="random",
    tier="random",
    licence="CC0-1.0",
    seed=7,
    random_return=-1.0,
    expert_return=3.0,
    recipe={"episodes": 4},
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "set", PARTS, MANIFEST_OF_PARTS)


# --- what is written is read ---------------------------------------------------------------------------------


def test_parts_of_different_sizes_are_read_as_written(dataset):
    assert dataset.num_parts == 2
    for number, part in enumerate(PARTS):
        assert_same(dataset.read(number), part)
        assert dataset.lengths(number).tolist() == part.lengths.tolist()
        assert (dataset.num_episodes(number), dataset.num_steps(number)) == (part.num_episodes, part.num_steps)
        np.testing.assert_array_equal(dataset.returns(number), part.returns)
    assert_same(dataset.read(0, 1, 2), PARTS[0].episodes([1, 2]))
    assert_same(dataset.read(1, 1), PARTS[1].episodes([1]))
    assert dataset.nbytes == sum(
        part.nbytes
        - sum(getattr(part, name).nbytes for name in LAST_FIELDS)
        + part.num_episodes * (3 * 4 * 4 + 3 * 4 + 3 * 4 + 6 + 24 + 15)
        for part in PARTS
    )
    dataset.verify()


def test_the_manifest_says_what_was_given_and_found(dataset):
    manifest = dataset.manifest
    assert manifest == Manifest(**{**vars(MANIFEST_OF_PARTS), "fields": {"agents": 3, "pair": [1, 2.5]}})
    scores = PARTS[0].returns.mean(axis=1)
    part = dataset.parts[0]
    assert (part.return_mean, part.return_min, part.return_max) == (scores.mean(), scores.min(), scores.max())
    body = json.loads((dataset.path / MANIFEST).read_text())
    files = {path.relative_to(dataset.path).as_posix() for path in dataset.path.rglob("*") if path.is_file()}
    assert files - set(body["files"]) == {MANIFEST, ROOT, f"{FOLDER}/lock"}


@pytest.mark.parametrize(
    ("part", "first", "count"), [(2, 0, 1), (-1, 0, 1), (0, 4, None), (0, 3, 2), (0, -1, 1), (0, 0, 0)]
)
def test_what_is_not_there_is_not_read(dataset, part, first, count):
    with pytest.raises(UsageError, match="has"):
        dataset.read(part, first, count)


def test_long_parts_are_written_and_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "_CHUNK_BYTES", 2000)
    part = episodes(*[3, 1, 4, 2] * 5)
    written = write_dataset(tmp_path / "set", [part], Manifest(), {"policy.bin": b"weights"})
    assert len(list(written.path.glob(f"{FOLDER}/chunk-*"))) > 3
    assert_same(written.read(0), part)
    for first, count in ((0, 1), (2, 9), (13, 7)):
        assert_same(written.read(0, first, count), part.episodes(np.arange(first, first + count)))
    written.verify()
    assert (written.path / FOLDER / "policy.bin").read_bytes() == b"weights"


def test_nothing_is_overwritten_and_nothing_empty_written(dataset, tmp_path):
    with pytest.raises(UsageError, match="exists already"):
        write_dataset(dataset.path, PARTS, Manifest())
    with pytest.raises(UsageError, match="no episodes"):
        write_dataset(tmp_path / "empty", [], Manifest())
    assert not list(tmp_path.iterdir())


# --- flashbax ------------------------------------------------------------------------------------------------


def flashbax_vault(path):
    from flashbax.vault import Vault

    return Vault(path.parent.name, rel_dir=str(path.parent.parent), vault_uid=path.name)


def test_flashbax_reads_what_we_write_and_no_padding(dataset):
    found = flashbax_vault(dataset.path).read().experience
    steps = min(part.num_steps for part in PARTS)
    leaves = {**found, **found["infos"]}
    for name in vault.LEAVES:
        wanted = np.stack([getattr(part, name)[:steps] for part in PARTS])
        np.testing.assert_array_equal(leaves[name], wanted)


@pytest.mark.parametrize("flag", [np.bool_, np.float32])
def test_what_flashbax_writes_loads(tmp_path, flag):
    import jax.numpy as jnp
    from flashbax.buffers.trajectory_buffer import TrajectoryBufferState
    from flashbax.vault import Vault

    parts = [episodes(3, 4, 2), episodes(4, 2, 3, seed=1)]
    tree = {name: np.stack([getattr(part, name) for part in parts]) for name in vault.LEAVES}
    tree |= {name: tree[name].astype(flag) for name in ("terminals", "truncations", "legals")}
    tree["infos"] = {"state": tree.pop("state"), "legals": tree.pop("legals"), "other": tree["rewards"]}
    writing = Vault("game.vlt", tree, rel_dir=str(tmp_path), vault_uid="Good")
    writing.write(TrajectoryBufferState(experience=tree, current_index=jnp.array(9), is_full=jnp.array(False)), (0, 9))

    found = open_dataset(tmp_path / "game.vlt" / "Good")
    assert found.manifest is None and found.num_parts == 2 and found.num_episodes(1) == 3
    assert (
        found.nbytes == sum(part.nbytes - sum(getattr(part, name).nbytes for name in LAST_FIELDS) for part in parts)
        or flag != np.bool_
    )
    for number, part in enumerate(parts):
        assert_same(found.read(number), part, without=LAST_FIELDS)
        assert_same(found.read(number, 1, 2), part.episodes([1, 2]), without=LAST_FIELDS)
    found.verify()
    with pytest.raises(UsageError, match="inside it are Good"):
        open_dataset(tmp_path / "game.vlt")


def test_flashbax_can_go_on_with_our_vault(tmp_path):
    import jax.numpy as jnp
    from flashbax.buffers.trajectory_buffer import TrajectoryBufferState

    part = episodes(3, 4, discrete=False)
    exported("vault", write_dataset(tmp_path / "set", [part], Manifest()), tmp_path / "out")
    theirs = flashbax_vault(tmp_path / "out")
    tree = {"infos": {"state": part.state[None]}}
    tree |= {name: getattr(part, name)[None] for name in vault.LEAVES if name not in ("state", "legals")}
    theirs.write(TrajectoryBufferState(experience=tree, current_index=jnp.array(7), is_full=jnp.array(False)), (0, 7))
    assert_same(open_dataset(tmp_path / "out").read(0), joined([part, part]), without=LAST_FIELDS)


# --- what is complete stays valid ------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("place", ["chunk file", "vault", "manifest"])
def test_a_writer_that_is_killed_leaves_what_was_complete(tmp_path, monkeypatch, place):
    path, first, second = tmp_path / "set", episodes(3, 1), episodes(2, 2, seed=1)
    with DatasetWriter(path, MANIFEST_OF_PARTS, 1) as writing:
        writing.append(0, first)

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if place == "vault":
            patch.setattr(vault, "append", killed)
        else:
            wanted = MANIFEST if place == "manifest" else "chunk-000001"
            real = writer.write_atomic
            patch.setattr(
                writer, "write_atomic", lambda file, data: killed() if wanted in str(file) else real(file, data)
            )
        with DatasetWriter(path, MANIFEST_OF_PARTS, 1, resume=True) as writing:
            writing.append(0, second)

    assert_same(open_dataset(path).read(0), first)
    if place == "manifest":
        with pytest.raises(RunError, match=rf"{ROOT}: expected SHA-256 [0-9a-f]+, found .*--repair"):
            open_dataset(path).verify()
        open_dataset(path).repair()
    open_dataset(path).verify()
    with DatasetWriter(path, MANIFEST_OF_PARTS, 1, resume=True) as writing:
        assert writing.num_episodes(0) == 2
        writing.append(0, second)
    whole = open_dataset(path)
    whole.verify()
    assert_same(whole.read(0), joined([first, second]))
    assert whole.parts == write_dataset(tmp_path / "other", [joined([first, second])], MANIFEST_OF_PARTS).parts
    np.testing.assert_array_equal(flashbax_vault(path).read().experience["rewards"][0], whole.read(0).rewards)


def test_a_first_append_that_is_killed_can_be_begun_again(tmp_path, monkeypatch):
    path = tmp_path / "set"

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed), DatasetWriter(path, Manifest(), 1) as writing:
        patch.setattr(writer, "encoded", killed)
        writing.append(0, PARTS[0])
    with pytest.raises(RunError, match="never completed"):
        open_dataset(path)
    with DatasetWriter(path, Manifest(), 1, resume=True) as writing:
        writing.append(0, PARTS[1])
    assert_same(open_dataset(path).read(0), PARTS[1])


@pytest.mark.parametrize("limit", [2000, 6000])
def test_a_full_disk_leaves_what_was_complete(tmp_path, limit):
    """No file may grow beyond `limit` bytes: the chunk's file fails (2000), or the vault's (6000)."""
    path, big = tmp_path / "set", episodes(*[10] * 40, seed=2)
    with DatasetWriter(path, Manifest(), 1) as writing:
        writing.append(0, PARTS[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(RunError, match=r"(?i)cannot be written.*(file too large)"):
                writing.append(0, big)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert_same(open_dataset(path).read(0), PARTS[0])
    with DatasetWriter(path, Manifest(), 1, resume=True) as writing:
        writing.append(0, big)
    open_dataset(path).verify()
    assert_same(open_dataset(path).read(0), joined([PARTS[0], big]))


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    from marl_bench.runtime import files

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(RunError, match="disk full"):
        write_dataset(tmp_path / "set", PARTS, Manifest())
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["h5", "vault", "omar"])
def test_a_full_disk_leaves_nothing_of_an_export(tmp_path, layout):
    """No file may grow beyond 3000 bytes."""
    parts = [episodes(*[10] * 100, team=layout == "h5", discrete=layout != "omar")]
    stored = write_dataset(tmp_path / "set", parts, Manifest())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(RunError, match="out: cannot be written"):
            exported(layout, stored, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("name", ["a b", "p%41x", "q#r", "s?t", "ü"])
def test_any_name_of_a_folder_is_that_folder(tmp_path, name):
    write_dataset(tmp_path / name, PARTS[:1], Manifest())
    open_dataset(tmp_path / name).verify()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_resuming_leaves_a_vault_of_somebody_else_alone(tmp_path):
    path = tmp_path / "set"
    write_dataset(path, PARTS[:1], Manifest())
    shutil.rmtree(path / "marl_bench")
    with pytest.raises(UsageError, match="exists already"):
        DatasetWriter(path, Manifest(), 1, resume=True)
    assert open_dataset(path).read(0).num_steps == PARTS[0].num_steps


def test_appending_refuses_what_does_not_belong(tmp_path):
    path = tmp_path / "set"
    with DatasetWriter(path, MANIFEST_OF_PARTS, 1) as writing:
        writing.append(0, PARTS[0])
        with pytest.raises(RunError, match=r"another process|in use"):
            DatasetWriter(path, MANIFEST_OF_PARTS, 1, resume=True)
        with pytest.raises(RunError, match="observations"):
            writing.append(0, episodes(2, agents=2))
        with pytest.raises(RunError, match="other fields"):
            writing.append(0, episodes(2, discrete=False))
        open_part = episodes(4).episodes([0])
        open_part.truncations[-1] = False
        writing.append(0, open_part)
        with pytest.raises(ValueError, match="not over"):
            writing.append(0, PARTS[1])
    with pytest.raises(UsageError, match=r"begun with fields .*3.*now .*4"):
        DatasetWriter(path, Manifest(**{**vars(MANIFEST_OF_PARTS), "fields": {"agents": 4}}), 1, resume=True)
    with pytest.raises(UsageError, match="begun with 1 parts, now 2"):
        DatasetWriter(path, MANIFEST_OF_PARTS, 2, resume=True)
    with pytest.raises(UsageError, match="exists already"):
        DatasetWriter(path, MANIFEST_OF_PARTS, 1)
    assert open_dataset(path).num_episodes(0) == 5


# --- other layouts -----------------------------------------------------------------------------------------------


def round_trip(layout, parts, folder):
    exported(layout, write_dataset(folder / "set", parts, Manifest()), folder / "out")
    return imported(layout, folder / "out", folder / "again")


def test_omar_round_trip(tmp_path):
    parts = [episodes(3, 4, 2, discrete=False), episodes(5, 1, seed=1, discrete=False)]
    found = round_trip("omar", parts, tmp_path)
    for number, part in enumerate(parts):
        assert_same(found.read(number), part)
    np.testing.assert_array_equal(np.load(tmp_path / "out/seed_1_data/acs_2.npy"), parts[1].actions[:, 2])
    next_views = np.load(tmp_path / "out/seed_0_data/next_obs_1.npy")
    np.testing.assert_array_equal(next_views[[2, 6, 8]], parts[0].last_observations[:, 1])
    np.testing.assert_array_equal(next_views[[0, 1, 3]], parts[0].observations[[1, 2, 4], 1])


def test_ends_of_omar_episodes_are_inferred(tmp_path):
    parts = [episodes(3, 4, 2, discrete=False)]
    exported("omar", write_dataset(tmp_path / "set", parts, Manifest()), tmp_path / "out")
    for file in [*tmp_path.glob("out/*/truncations*"), *tmp_path.glob("out/SHA256SUMS")]:
        file.unlink()
    assert_same(omar.read(tmp_path / "out")[0], parts[0])
    assert_same(omar.read(tmp_path / "out/seed_0_data")[0], parts[0])


def test_h5_round_trip(tmp_path):
    import h5py

    parts = [episodes(3, 4, 2, team=True), episodes(1, 5, team=True, seed=1)]
    found = round_trip("h5", parts, tmp_path)
    for number, part in enumerate(parts):
        assert_same(found.read(number), part)
    assert_same(cfcql_h5.read(tmp_path / "out/part_1.h5")[0], parts[1])
    with h5py.File(tmp_path / "out/part_0.h5") as file:
        shapes = {name: (array.shape, array.dtype.name) for name, array in file.items()}
        assert shapes == {
            "state": ((3, 5, 6), "float32"),
            "obs": ((3, 5, 3, 4), "float32"),
            "actions": ((3, 5, 3, 1), "int64"),
            "avail_actions": ((3, 5, 3, 5), "int32"),
            "probs": ((3, 5, 3, 5), "float32"),
            "reward": ((3, 5, 1), "float32"),
            "terminated": ((3, 5, 1), "uint8"),
            "filled": ((3, 5, 1), "int64"),
        }
        assert file["filled"][..., 0].sum(axis=1).tolist() == [4, 5, 3]
        assert file["terminated"][..., 0].sum(axis=1).tolist() == [0, 1, 0]


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    stored = write_dataset(tmp_path / "set", [episodes(3, team=True)], Manifest())
    monkeypatch.setitem(sys.modules, "h5py", None)
    for work in (lambda: exported("h5", stored, tmp_path / "out"), lambda: imported("h5", tmp_path, tmp_path / "new")):
        with pytest.raises(UsageError, match=r"pip install 'marl-bench\[h5\]'"):
            work()


def test_vault_round_trip(tmp_path):
    found = round_trip("vault", PARTS[:1], tmp_path)
    assert_same(found.read(0), PARTS[0], without=LAST_FIELDS)
    assert not (tmp_path / "out" / FOLDER).exists() and (found.path / FOLDER).exists()


@pytest.mark.parametrize(
    ("layout", "part", "message"),
    [
        ("omar", episodes(3), "vectors"),
        ("h5", episodes(3), "one reward"),
        ("h5", episodes(3, discrete=False), "legals"),
        ("parquet", episodes(3), "unknown layout"),
    ],
)
def test_layouts_say_what_they_cannot_hold(tmp_path, layout, part, message):
    with pytest.raises(UsageError, match=message):
        exported(layout, write_dataset(tmp_path / "set", [part], Manifest()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_coverage_counts_distinct_pairs(tmp_path):
    part = episodes(10, 10)
    part.state[10:], part.actions[10:] = part.state[:10], part.actions[:10]
    found = write_dataset(tmp_path / "set", [part], Manifest())
    share = unique_share(found, 0)
    assert share[24] == 1.0 and share[-1] == 0.5


# --- command line ------------------------------------------------------------------------------------------------


def run(capsys, *words):
    code = cli.main(["dataset", *map(str, words)])
    return code, capsys.readouterr()


def test_commands(dataset, tmp_path, capsys):
    code, text = run(capsys, "info", dataset.path)
    assert code == 0 and all(word in text.out for word in ("equal_line", "agents=3", "CC0-1.0", "normalised", "3x4"))
    assert run(capsys, "verify", dataset.path)[1].out.startswith(f"{dataset.path}: 2 data sets, 6 episodes")
    assert run(capsys, "export", "vault", dataset.path, "--out", tmp_path / "vault")[0] == 0
    assert run(capsys, "import", "vault", tmp_path / "vault", "--out", tmp_path / "set", "--tier", "random")[0] == 0
    assert open_dataset(tmp_path / "set").manifest.tier == "random"
    code, text = run(capsys, "plot", dataset.path, "--out", tmp_path / "plot.png")
    assert code == 0 and "SACo" in text.out and (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    code, text = run(capsys, "info", tmp_path / "nowhere")
    assert code == 2 and "no data set" in text.err and text.err.count("\n") == 1


def test_a_damaged_file_is_named_with_both_digests(dataset, tmp_path, capsys):
    path = tmp_path / "set"
    shutil.copytree(dataset.path, path)
    victim = sorted(path.glob("d/*"))[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    code, text = run(capsys, "verify", path)
    assert code == 1 and f"{victim}: damaged: expected SHA-256" in text.err and ", found " in text.err
    victim.write_bytes(data[:-1])
    assert f"expected {len(data)} bytes, found {len(data) - 1}" in run(capsys, "info", path)[1].err
    victim.unlink()
    assert f"{victim}: cannot be read" in run(capsys, "info", path)[1].err


def test_data_of_another_world_say_which_field_differs(tmp_path, capsys):
    part = episodes(3, 2, discrete=False)
    exported("omar", write_dataset(tmp_path / "set", [part], Manifest()), tmp_path / "omar")
    code, text = run(capsys, "import", "omar", tmp_path / "omar", "env=omar_spread", "--out", tmp_path / "new")
    assert code == 2 and "observation_shape is (4,) in the data and (18,) in Spread" in text.err
    assert not (tmp_path / "new").exists()


def test_actions_out_of_the_worlds_range_are_refused(tmp_path, capsys):
    part = episodes(3, 2, discrete=False)
    wide = {
        name: np.resize(getattr(part, name), (*getattr(part, name).shape[:-1], 18))
        for name in ("observations", "last_observations")
    }
    part = type(part)(**{**vars(part), **wide, "actions": part.actions * 3})
    exported("omar", write_dataset(tmp_path / "set", [part], Manifest()), tmp_path / "omar")
    code, text = run(capsys, "import", "omar", tmp_path / "omar", "env=omar_spread", "--out", tmp_path / "new")
    assert code == 2 and "actions" in text.err and "the world's are -1.0 to 1.0" in text.err
    assert not (tmp_path / "new").exists()
