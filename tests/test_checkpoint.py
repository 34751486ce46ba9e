"""Checkpoints and the files under them: atomic, verified, never unpickled."""

import errno
import json
import logging
import os
import random
import shutil
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from marl_bench.errors import RunError
from marl_bench.runtime import checkpoint, files


def state(scale=1.0, width=4):
    return {
        "params": {"w": jnp.arange(3 * width, dtype=jnp.float32).reshape(3, width) * scale, "b": jnp.zeros(0)},
        "half": jnp.asarray([1.5, -2.0], jnp.bfloat16),
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(1), 3),
        "count": jnp.int32(5),
        "flags": np.array([True, False]),
        "complex": np.array([1 + 2j], np.complex128),
        "python": 3,
    }


def assert_equal(left, right):
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_flatten_with_path(left)[0], jax.tree_util.tree_flatten_with_path(right)[0], strict=True
    ):
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert a.dtype == b.dtype
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype, path
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def restored(directory, template):
    found = checkpoint.restore(directory, template)
    assert found is not None
    return found


def only_folder(directory):
    (folder,) = [path for path in directory.iterdir() if path.is_dir()]
    return folder


def test_round_trip(tmp_path):
    assert checkpoint.restore(tmp_path / "none", state()) is None
    checkpoint.save(tmp_path, 12, state(), {"parts": 3})
    tree, metadata, step = restored(tmp_path, state(scale=0.0))
    assert_equal(tree, state())
    assert (metadata, step) == ({"parts": 3}, 12)
    assert isinstance(tree["python"], int) and isinstance(tree["flags"], np.ndarray)
    assert only_folder(tmp_path).name == "step-000000012"


def test_restore_into_shape_structs_and_committed_leaves(tmp_path):
    device = jax.devices()[0]
    checkpoint.save(tmp_path, 1, {"a": jnp.ones(2), "k": jax.random.key(3)}, {})
    template = {"a": jax.device_put(jnp.zeros(2), device), "k": jax.eval_shape(lambda: jax.random.key(0))}
    tree, _, _ = restored(tmp_path, template)
    assert tree["a"].committed and tree["a"].device == device
    assert jax.random.key_data(tree["k"]).tolist() == jax.random.key_data(jax.random.key(3)).tolist()


def test_restore_raw_returns_names_and_native_dtypes(tmp_path):
    checkpoint.save(tmp_path, 2, state(), {"a": 1})
    arrays, metadata, step = checkpoint.restore_raw(tmp_path)
    assert arrays["['half']"].dtype == ml_dtypes.bfloat16
    assert arrays["['half']"].astype(float).tolist() == [1.5, -2.0]
    assert arrays["['complex']"].tolist() == [1 + 2j]
    assert arrays["['keys']"].shape == (3, 2)
    assert (metadata, step) == ({"a": 1}, 2)
    with pytest.raises(RunError, match="no intact checkpoint"):
        checkpoint.restore_raw(tmp_path / "nothing")


def test_keeps_the_newest_and_drops_an_abandoned_future(tmp_path):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, {"x": jnp.int32(step)}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000020", "step-000000030"]
    checkpoint.save(tmp_path, 25, {"x": jnp.int32(25)}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000020", "step-000000025"]
    os.utime(tmp_path / "step-000000020", (2e9, 2e9))
    assert restored(tmp_path, {"x": jnp.int32(0)})[2] == 25
    checkpoint.save(tmp_path, 25, {"x": jnp.int32(99)}, {})
    assert int(restored(tmp_path, {"x": jnp.int32(0)})[0]["x"]) == 99


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["data", "manifest", "rename"])
def test_killed_while_writing_leaves_the_previous_one(tmp_path, monkeypatch, caplog, moment):
    checkpoint.save(tmp_path, 1, {"x": jnp.int32(1)}, {})
    write, replace = files.write_synced, os.replace

    def dying_write(path, data):
        if moment == "data" and path.name == "manifest.json":
            raise Killed
        write(path, data)

    def dying_replace(source, target):
        if moment in ("manifest", "rename"):
            if moment == "rename":
                replace(source, target)
            raise Killed
        replace(source, target)

    monkeypatch.setattr(files, "write_synced", dying_write)
    monkeypatch.setattr(os, "replace", dying_replace)
    with pytest.raises(Killed):
        checkpoint.save(tmp_path, 2, {"x": jnp.int32(2)}, {})
    monkeypatch.undo()
    with caplog.at_level(logging.WARNING):
        tree, _, step = restored(tmp_path, {"x": jnp.int32(0)})
    expected = 2 if moment == "rename" else 1
    assert (int(tree["x"]), step) == (expected, expected)
    assert ("step-000000002" in caplog.text) == (moment != "rename")
    checkpoint.save(tmp_path, 3, {"x": jnp.int32(3)}, {})
    assert not list(tmp_path.glob(".tmp-*"))


def test_nothing_is_visible_before_it_is_on_the_disk(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("RENAME"), replace(a, b)))
    checkpoint.save(tmp_path, 4, {"x": jnp.int32(1)}, {})
    before = events[: events.index("RENAME")]
    assert before[:2] == ["state.safetensors", "manifest.json"]
    assert before[2].endswith("step-000000004")
    assert events[-1] == tmp_path.name


def test_fifty_flipped_bytes_are_detected(tmp_path, caplog):
    checkpoint.save(tmp_path, 1, {"x": jnp.int32(1), "w": jnp.ones(100)}, {"note": "first"})
    checkpoint.save(tmp_path, 2, {"x": jnp.int32(2), "w": jnp.ones(100)}, {"note": "second"})
    newest = tmp_path / "step-000000002"
    generator = random.Random(0)
    template = {"x": jnp.int32(0), "w": jnp.zeros(100)}
    for trial in range(50):
        path = newest / ("manifest.json" if trial % 3 == 0 else "state.safetensors")
        good = path.read_bytes()
        bad = bytearray(good)
        bad[generator.randrange(len(bad))] ^= 1 << generator.randrange(8)
        path.write_bytes(bad)
        caplog.clear()
        assert restored(tmp_path, template)[2] == 1
        assert str(path) in caplog.text
        path.write_bytes(good)
    assert restored(tmp_path, template)[2] == 2


@pytest.mark.parametrize("fault", ["truncated", "zero", "missing data", "missing manifest", "manifest of another step"])
def test_damage_falls_back_and_is_named(tmp_path, caplog, fault):
    checkpoint.save(tmp_path, 1, {"x": jnp.int32(1)}, {})
    checkpoint.save(tmp_path, 2, {"x": jnp.int32(2)}, {})
    folder = tmp_path / "step-000000002"
    data, manifest = folder / "state.safetensors", folder / "manifest.json"
    match fault:
        case "truncated":
            data.write_bytes(data.read_bytes()[:-1])
        case "zero":
            data.write_bytes(b"")
        case "missing data":
            data.unlink()
        case "missing manifest":
            manifest.unlink()
        case _:
            shutil.copy(tmp_path / "step-000000001" / "manifest.json", manifest)
    assert restored(tmp_path, {"x": jnp.int32(0)})[2] == 1
    assert "step-000000002" in caplog.text and "step-000000001" in caplog.text
    shutil.rmtree(tmp_path / "step-000000001")
    assert checkpoint.restore(tmp_path, {"x": jnp.int32(0)}) is None


@pytest.mark.parametrize(
    ("saved", "template", "words"),
    [
        ({"w": jnp.zeros((3, 4))}, {"w": jnp.zeros((3, 5))}, ["['w']", "float32[3, 4]", "float32[3, 5]"]),
        ({"w": jnp.zeros(3)}, {"w": jnp.zeros(3, jnp.int32)}, ["['w']", "float32[3]", "int32[3]"]),
        ({"w": jnp.zeros(3)}, {"w": jnp.zeros(3), "v": jnp.zeros(3)}, ["['v']", "missing"]),
        ({"w": jnp.zeros(3), "v": jnp.zeros(3)}, {"w": jnp.zeros(3)}, ["['v']", "unknown"]),
        ({"w": jax.random.key(0)}, {"w": jnp.zeros(2, jnp.uint32)}, ["['w']", "PRNG key"]),
        ({"w": jax.random.key(0)}, {"w": jax.random.split(jax.random.key(0))}, ["['w']", "[]", "[2]"]),
        ({"w": jax.random.key(0, impl="rbg")}, {"w": jax.random.key(0)}, ["['w']", "key<rbg>", "key<fry>"]),
    ],
)
def test_another_configuration_names_the_leaf(tmp_path, saved, template, words):
    checkpoint.save(tmp_path, 1, saved, {})
    with pytest.raises(RunError) as caught:
        restored(tmp_path, template)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def rewrite(folder, **changes):
    """Give the manifest other entries and a digest that fits."""
    body = {**json.loads((folder / "manifest.json").read_text())["body"], **changes}
    (folder / "manifest.json").write_bytes(checkpoint._manifest_bytes(body))


def test_another_format_is_refused_and_not_skipped(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": jnp.int32(1)}, {})
    rewrite(tmp_path / "step-000000001", format=2)
    with pytest.raises(RunError, match=r"format 2, this version reads 1; use marl-bench \d"):
        restored(tmp_path, {"x": jnp.int32(0)})


def header_file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "10^15 elements": header_file({"a": tensor([10**15], 0, 4)}, b"\0" * 4),
    "overflowing product": header_file({"a": tensor([2**32, 2**32], 0, 0)}),
    "overlap": header_file({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, b"\0" * 12),
    "gap": header_file({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, b"\0" * 12),
    "left over": header_file({"a": tensor([1], 0, 4)}, b"\0" * 8),
    "outside": header_file({"a": tensor([2], 0, 8)}, b"\0" * 4),
    "negative": header_file({"a": tensor([-1], 0, -4)}),
    "huge header": (2**60).to_bytes(8, "little"),
    "header past the end": (100).to_bytes(8, "little") + b"{}",
    "too short": b"123",
    "twice": header_file(b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":1}', b"\0" * 4),
    "not an object": header_file([1]),
    "not json": header_file(b"{"),
    "nested": header_file(b"[" * 100_000),
    "odd types": header_file({"a": {"dtype": [], "shape": 3, "data_offsets": [0, 4]}}, b"\0" * 4),
    "object dtype": header_file({"a": tensor([1], 0, 8, "O")}, b"\0" * 8),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_header_is_refused_before_allocation(tmp_path, name, caplog, monkeypatch):
    with pytest.raises(ValueError):
        files.check_safetensors(HOSTILE[name])
    checkpoint.save(tmp_path, 1, {"a": jnp.zeros(1)}, {})
    folder = tmp_path / "step-000000001"
    (folder / "state.safetensors").write_bytes(HOSTILE[name])
    rewrite(folder, files={"state.safetensors": {"size": len(HOSTILE[name]), "sha256": files.sha256(HOSTILE[name])}})
    monkeypatch.setattr(checkpoint.safetensors, "load", lambda data: pytest.fail("was parsed"))
    assert checkpoint.restore(tmp_path, {"a": jnp.zeros(1)}) is None
    assert "not a valid safetensors file" in caplog.text


def test_pickles_are_refused_by_name(tmp_path):
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    import pickle

    path = tmp_path / "policy.pkl"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(RunError, match="pickle"):
        checkpoint.restore_raw(path)
    assert not marker.exists()


def test_unsaveable_leaves_and_arguments(tmp_path):
    with pytest.raises(TypeError, match=r"\['x'\].*dtype object"):
        checkpoint.save(tmp_path, 1, {"x": np.array([object()])}, {})
    with pytest.raises(ValueError, match="keep=0"):
        checkpoint.save(tmp_path, 1, {}, {}, keep=0)


def full_disk(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "c", 1, {"x": jnp.int32(1)}, {})
    files.write_atomic(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunError, match=r"step-000000002: disk full"):
        checkpoint.save(tmp_path / "c", 2, {"x": jnp.int32(2)}, {})
    with pytest.raises(RunError, match=r"file: disk full"):
        files.write_atomic(tmp_path / "file", b"new")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert restored(tmp_path / "c", {"x": jnp.int32(0)})[2] == 1
    assert not list(tmp_path.rglob(".tmp-*"))


def test_write_atomic_replaces_and_says_when_the_folder_is_gone(tmp_path):
    files.write_atomic(tmp_path / "ein Blatt ü", b"1")
    files.write_atomic(tmp_path / "ein Blatt ü", b"2")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"2"]
    with pytest.raises(RunError, match=r"gone.*cannot be written"):
        files.write_atomic(tmp_path / "gone" / "x", b"")


def test_lock_refuses_a_second_owner_and_outlives_a_dead_one(tmp_path):
    path = tmp_path / ".lock"
    code = (
        "import sys; from marl_bench.runtime.files import Lock\n"
        f"lock = Lock({str(path)!r}); lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=f"process {process.pid} on {socket.gethostname()}"):
        files.Lock(path).acquire()
    process.kill()
    process.wait()
    assert json.loads(path.read_text())["pid"] == process.pid
    with files.Lock(path), pytest.raises(RunError, match=f"process {os.getpid()}"):
        files.Lock(path).acquire()
    assert path.read_bytes() == b""


def test_lock_of_another_machine_is_respected_and_damage_is_not(tmp_path):
    path = tmp_path / ".lock"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "machine": "m", "since": "2020"}))
    with pytest.raises(RunError, match=r"process 1 on elsewhere since 2020.*delete .*\.lock"):
        files.Lock(path).acquire()
    for content in ("", "{", "[1]", json.dumps({"pid": 1, "host": socket.gethostname(), "machine": "before a reboot"})):
        path.write_text(content)
        with files.Lock(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_lock_without_file_locks_goes_by_the_recorded_process(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    path = tmp_path / ".lock"
    with files.Lock(path), pytest.raises(RunError, match=f"process {os.getpid()}"):
        files.Lock(path).acquire()
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    path.write_text(json.dumps({**files._this_process(), "pid": process.pid}))
    with files.Lock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
