"""Damaged and malicious data sets: each file is refused with one line that names it, or it is harmless; nothing in it runs."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import struct
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy as safetensors
from small_datasets import assert_same, episodes

from marl_bench import cli
from marl_bench.datasets import vault
from marl_bench.datasets.formats import SUMS
from marl_bench.datasets.manifest import MANIFEST, Manifest, file_of
from marl_bench.datasets.schema import LAST_FIELDS
from marl_bench.datasets.stored import open_dataset
from marl_bench.datasets.writer import write_dataset
from marl_bench.errors import RunError, UsageError
from marl_bench.experiments.dataset_files import description, exported, imported
from marl_bench.runtime.files import digest_of

SETS = {
    "own": (episodes(3, 4, 2), episodes(2, 2, seed=1)),
    "vault": (episodes(3, 4, 2),),
    "omar": (episodes(3, 4, agents=2, discrete=False), episodes(2, 1, seed=1, agents=2, discrete=False)),
    "h5": (episodes(3, 4, team=True), episodes(1, 5, team=True, seed=1)),
}
LEAST = {"own": 150, "vault": 100, "omar": 250, "h5": 60}
"""How many damaged files of each layout there are at least; more than 500, without the malicious ones further below."""

TALLY: Counter[str] = Counter()


class Bomb:
    """Unpickling it would make a file."""

    path = ""

    def __reduce__(self):
        return (open, (Bomb.path, "w"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folder of whole data sets, one for each layout. At the end nothing was executed, and memory was never exhausted."""
    folder = tmp_path_factory.mktemp("fuzz")
    Bomb.path = str(folder / "executed")
    for layout, parts in SETS.items():
        stored = write_dataset(folder / ("own" if layout == "own" else f"{layout}-source"), parts, Manifest())
        if layout != "own":
            exported(layout, stored, folder / layout)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield folder
    assert not (folder / "executed").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def load(layout, path):
    """Everything in a data set, read as `dataset verify` and a run (own), or `dataset import` do."""
    if layout != "own":
        again = path.parent / "imported"
        stored = imported(layout, path, again)
        try:
            return [stored.read(part) for part in range(stored.num_parts)]
        finally:
            shutil.rmtree(again)
    stored = open_dataset(path)
    stored.verify()
    for part in range(stored.num_parts):
        np.testing.assert_array_equal(stored.returns(part), SETS[layout][part].returns)
    assert "\n  0 " in description(stored)
    return [stored.read(part) for part in range(stored.num_parts)]


def judge(layout, path, label, harmless=True):
    """Refused in one line naming the path, or (where it may be) loaded as it was."""
    try:
        found = load(layout, path)
    except (RunError, UsageError) as error:
        text = str(error)
        assert "\n" not in text and len(text) < 2000 and str(path) in text, (label, text)
        TALLY["refused"] += 1
        assert not (path.parent / "imported").exists(), label
        return
    assert harmless, f"{label}: was read"
    TALLY["harmless"] += 1
    wanted = SETS[layout]
    assert len(found) == len(wanted), label
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other, without=LAST_FIELDS if layout == "vault" else ())


@contextmanager
def replaced(file, data):
    """A file with other content (None: without it), and as it was afterwards."""
    before = file.read_bytes()
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    try:
        yield
    finally:
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
        file.write_bytes(before)


# --- any file ----------------------------------------------------------------------------------------------------


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def bombs():
    """Files that would run code if they were unpickled."""
    stream = io.BytesIO()
    np.savez(stream, x=np.array([Bomb()], object))
    whole = npy(np.array([Bomb(), 1], object))
    return {"object array": whole, "pickle": whole[whole.index(b"\n") + 1 :], "object archive": stream.getvalue()}


def damages(data, rng):
    """What may have happened to a file: label -> content."""
    found = {
        "empty": b"",
        "half": data[: len(data) // 2],
        "cut": data[:-1],
        "longer": data + b"\0",
        "zeros": bytes(len(data) or 8),
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "text": b"<html>404 Not Found</html>\n",
        "deep": b"[" * 100_000,
        "a line\nbreak": b'{"format": "a\\nb", "version": "a\\nb"}',
        **bombs(),
    }
    if data:
        for number in range(6):
            flipped = bytearray(data)
            flipped[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            found[f"bit {number}"] = bytes(flipped)
        start, size = rng.integers(len(data)), int(rng.integers(1, 64))
        found["noise"] = (data[:start] + rng.bytes(size) + data[start + size :])[: len(data)]
    return {label: content for label, content in found.items() if content != data}


def disguises(file, elsewhere):
    """What a file may be in place of a plain one: label -> how to make it."""
    return {
        "missing": lambda: None,
        "link": lambda: file.symlink_to(elsewhere),
        "link to a device": lambda: file.symlink_to("/dev/zero"),
        "loop": lambda: file.symlink_to(file),
        "folder": lambda: file.mkdir(),
        "pipe": lambda: os.mkfifo(file),
    }


@pytest.mark.parametrize("layout", SETS)
def test_damaged_files(home, layout):
    rng, path, elsewhere = np.random.default_rng(0), home / layout, home / "elsewhere"
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "lock")
    if layout == "omar":
        files = [file for file in files if file.name.endswith("_1.npy") or file.name == SUMS]
    before = TALLY.total()
    for file in files:
        elsewhere.write_bytes(file.read_bytes())
        protected = file.name not in (SUMS, Path(MANIFEST).name)
        for label, content in damages(file.read_bytes(), rng).items():
            with replaced(file, content):
                judge(layout, path, f"{file}: {label}", harmless=not protected or label.startswith(("bit", "noise")))
        for label, make in disguises(file, elsewhere).items():
            with replaced(file, None):
                make()
                judge(layout, path, f"{file}: {label}", harmless=file.name == SUMS and label == "missing")
        other = next(entry for entry in [*files, home / "own/metadata.json"] if entry.read_bytes() != file.read_bytes())
        with replaced(file, other.read_bytes()):
            judge(layout, path, f"{file}: another file", harmless=False)
    assert TALLY.total() - before >= LEAST[layout] and sum(LEAST.values()) >= 500
    judge(layout, path, "whole")


@pytest.mark.parametrize("layout", ["vault", "omar", "h5"])
def test_digests_of_files_elsewhere(home, layout):
    sums = home / layout / SUMS
    text = sums.read_text()
    digest = text[:64]
    for name in ("../own/metadata.json", "/etc/hostname", "a/../../b", "", "a\x00b", "a\rb", ".", "x" * 5000, "none"):
        with replaced(sums, f"{text}{digest}  {name}\n".encode()):
            judge(layout, home / layout, name, harmless=False)
    for changed in (text.replace(digest[:4], "zzzz"), text.replace(digest, "0" * 64), text.upper(), text[1:]):
        with replaced(sums, changed.encode()):
            judge(layout, home / layout, changed, harmless=False)


# --- malicious manifests, whose digests are right ------------------------------------------------------------------

HOSTILE = (None, -1, 1e30, 10**30, True, "a\nb", "../x", "/etc/passwd", "x" * 20_000, [], {}, [[None]], float("nan"))


def places(tree, place=()):
    """Every place in a tree of dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, branch in items:
        yield (*place, key)
        yield from places(branch, (*place, key))


def changed(tree, place, value):
    """A copy with another value at a place; an Exception as value: without it."""
    copy = json.loads(json.dumps(tree))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    if value is KeyError:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return copy


def signed(body):
    body = {key: value for key, value in body.items() if key != "sha256"}
    return json.dumps(body | {"sha256": digest_of(body)}).encode()


def test_malicious_manifests(home):
    rng, path = np.random.default_rng(1), home / "own"
    file = path / MANIFEST
    body = json.loads(file.read_bytes())
    bodies = {}
    for place in places(body):
        for number in rng.choice(len(HOSTILE), 3, replace=False):
            bodies[f"{place} {HOSTILE[number]!r:.40}"] = changed(body, place, HOSTILE[number])
        bodies[f"{place} missing"] = changed(body, place, KeyError)
    entry = next(iter(body["files"].values()))
    for name in ("../own/metadata.json", "/etc/hostname", "d/../../x", "", "a\nb", "d", "\x00", "é", "x" * 5000):
        bodies[name] = changed(body, ("files", name), entry)
    for label, changes in bodies.items():
        with replaced(file, signed(changes)):
            judge("own", path, label)
    text = file.read_bytes()
    twice = text.replace(b'"licence"', b'"licence": "a", "licence"', 1)
    for content in (
        twice,
        text.replace(b'"format"', b'"format": "a", "format"', 1),
        text.replace(b"[", b"[" * 5000, 1),
    ):
        with replaced(file, content):
            judge("own", path, content[:80], harmless=False)


def test_malicious_metadata_of_vaults(home):
    path = home / "vault"
    file = path / vault.METADATA
    body = json.loads(file.read_bytes())
    shapes = ("(1, 1, 3, 99)", "(1, 1, 3)", "(1,)", "()", "(9, 1, 3, 4)", "(1, 1, -3)", "(1, 1, 99999999999999)", "f()")
    with replaced(path / SUMS, None):
        for place in places(body):
            for value in (*HOSTILE, *shapes, "object", "float16", KeyError):
                content = json.dumps(changed(body, place, value)).encode()
                with replaced(file, content):
                    judge("vault", path, f"{place} {value!r:.60}")
        for content in (b'{"version": 9,' + file.read_bytes()[1:], b'{"version":' + b"[" * 50_000, b"\xff\xfe{}"):
            with replaced(file, content):
                judge("vault", path, content[:40], harmless=False)


# --- malicious arrays ----------------------------------------------------------------------------------------------


def tensors(body):
    """Other contents of a chunk's file: label -> bytes."""
    whole = {name: np.array(array) for name, array in safetensors.load(body).items()}
    found = {}
    for name, array in whole.items():
        changes = {
            "double": np.concatenate([array, array]),
            "one less": array[:-1],
            "flat": array.ravel(),
            "scalar": array.ravel()[0].reshape(()),
            "deeper": array[None],
            "empty": array[:0],
            "other type": array.astype(np.float16 if array.dtype != np.float16 else np.int8),
            "unsigned": np.full(array.shape, 2**64 - 1, np.uint64),
            "negative": np.full(array.shape, -1, np.int64),
            "nan": np.full(array.shape, np.nan, np.float32),
        }
        for label, change in changes.items():
            found[f"{name}: {label}"] = safetensors.save({**whole, name: np.ascontiguousarray(change)})
        found[f"{name}: missing"] = safetensors.save({key: value for key, value in whole.items() if key != name})
    size = struct.unpack("<Q", body[:8])[0]
    for old, new in (
        (b'"dtype":"I64"', b'"dtype":"F8_E5M2"'),
        (b'"F32"', b'"BF16"'),
        (b'"F32"', b'"O"'),
        (b'"shape":[', b'"shape":[99999999999,'),
        (b'"shape":[', b'"shape":[-1,'),
        (b'"data_offsets":[', b'"data_offsets":[1'),
    ):
        header = body[8 : 8 + size].replace(old, new, 1)
        found[f"{old} as {new}"] = struct.pack("<Q", len(header)) + header + body[8 + size :]
    return found | {"no end": struct.pack("<Q", 2**63) + body[8:]} | bombs()


def test_malicious_chunks(home):
    path = home / "own"
    manifest = path / MANIFEST
    body = json.loads(manifest.read_bytes())
    for chunk in body["chunks"]:
        file = path / chunk["file"]
        for label, content in tensors(file.read_bytes()).items():
            with replaced(file, content):
                entry = {"bytes": len(content), "sha256": file_of(file).sha256}
                with replaced(manifest, signed(changed(body, ("files", chunk["file"]), entry))):
                    judge("own", path, f"{chunk['file']}: {label}")


def test_damaged_stores_whose_digests_are_right(home):
    """Bits of the vault itself: its own checksums find them, or its decoders refuse."""
    rng, path = np.random.default_rng(2), home / "own"
    manifest = path / MANIFEST
    body = json.loads(manifest.read_bytes())
    for file in sorted(path.glob("d/*")):
        for label, content in damages(file.read_bytes(), rng).items():
            with replaced(file, content):
                entry = {"bytes": len(content), "sha256": file_of(file).sha256}
                with replaced(manifest, signed(changed(body, ("files", f"d/{file.name}"), entry))):
                    judge("own", path, f"{file.name}: {label}")


def arrays(array):
    """Arrays in place of another one: label -> array."""
    return {
        "half": array[: len(array) // 2],
        "longer": np.concatenate([array, array]),
        "none": array[:0],
        "scalar": array.ravel()[0].reshape(()),
        "deeper": array[..., None],
        "flat": array.ravel()[: len(array)] if array.ndim > 1 else array[:, None],
        "nan": np.full(array.shape, np.nan, np.float32),
        "infinity": np.full(array.shape, np.inf, np.float32),
        "text": np.full(array.shape, "a"),
        "complex": array.astype(np.complex64),
        "dates": np.full(array.shape, "2020-01-01", "M8[D]"),
        "records": np.zeros(array.shape, [("a", "f4"), ("b", "i4")]),
        "bytes": np.full(array.shape, b"ab", "V2"),
        "objects": np.full(array.shape, Bomb(), object),
    }


def headers(content):
    """The content of an npy file with another header."""
    data = content[128:]
    for descr, order, shape in (
        ("'<f4'", False, "(99999999999, 9)"),
        ("'<f4'", False, "(-1, 4)"),
        ("'<f4'", False, f"({2**62}, {2**62})"),
        ("'<f4'", False, "(1,) * 10**9"),
        ("'|O'", False, "(7, 4)"),
        ("'<f4'", "open('/tmp')", "(7, 4)"),
        ("__import__('os')", False, "(7, 4)"),
        ("[('a', 'O')]", False, "(7,)"),
        ("'V0'", False, "(7, 4)"),
        ("'<f4'", False, "(" * 5000 + ")" * 5000),
    ):
        text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
        yield b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data
    yield content[:6] + b"\x09\x00" + content[8:]
    yield content[:6] + b"\x02\x00" + struct.pack("<I", 2**32 - 1) + content[10:]


def test_malicious_npy(home):
    path = home / "omar"
    with replaced(path / SUMS, None):
        for file in sorted(path.glob("seed_0_data/*_1.npy")):
            whole = np.lib.format.open_memmap(file, mode="r")
            contents = {label: npy(array) for label, array in arrays(np.array(whole)).items()}
            contents |= {f"header {number}": content for number, content in enumerate(headers(file.read_bytes()))}
            contents |= {"cut": file.read_bytes()[:-1], "longer": file.read_bytes() + b"\0"} | bombs()
            for label, content in contents.items():
                with replaced(file, content):
                    judge("omar", path, f"{file}: {label}")
        outside = path.parent / "elsewhere_data"
        (path / "seed_0_data").rename(outside)
        (path / "seed_0_data").symlink_to(outside)
        judge("omar", path, "link to a folder", harmless=False)
        (path / "seed_0_data").unlink()
        outside.rename(path / "seed_0_data")


def foreign_items(h5py, name, array):
    """Ways to store something else under a name in an h5 file: label -> how."""
    large = (10**7, *array.shape[1:])
    return {
        "missing": lambda file: None,
        "group": lambda file: file.create_group(name),
        "soft link": lambda file: file.__setitem__(name, h5py.SoftLink("/elsewhere")),
        "external link": lambda file: file.__setitem__(name, h5py.ExternalLink("/etc/hostname", "/x")),
        "external data": lambda file: file.create_dataset(
            name, array.shape, array.dtype, external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
        ),
        "virtual": lambda file: file.create_virtual_dataset(name, h5py.VirtualLayout(array.shape, array.dtype)),
        "reference": lambda file: file.create_dataset(name, array.shape, h5py.ref_dtype),
        "text": lambda file: file.create_dataset(name, array.shape, h5py.string_dtype()),
        "pickle": lambda file: file.create_dataset(name, data=np.void(bombs()["pickle"])),
        "huge": lambda file: file.create_dataset(name, large, array.dtype, chunks=(1, *array.shape[1:])),
        "nothing": lambda file: file.create_dataset(name, dtype=array.dtype, data=h5py.Empty(array.dtype)),
        "filter": lambda file: file.create_dataset(name, data=array, compression=32001, chunks=array.shape),
    }


def test_malicious_h5(home):
    import h5py

    path = home / "h5"
    source, elsewhere = path / "part_0.h5", home / "other.h5"
    with h5py.File(source) as file:
        whole = {name: array[...] for name, array in file.items() if name != "probs"}

    def judged(name, label, write):
        with h5py.File(elsewhere, "w") as file:
            for key, array in whole.items():
                if key != name:
                    file[key] = array
            try:
                write(file)
            except (TypeError, ValueError):
                return  # h5py itself does not write it
        with replaced(source, elsewhere.read_bytes()):
            judge("h5", path, f"{name}: {label}", harmless=False)

    before = TALLY.total()
    with replaced(path / SUMS, None):
        for name, array in whole.items():
            for label, write in foreign_items(h5py, name, array).items():
                judged(name, label, write)
            for label, other in arrays(array).items():
                judged(name, label, lambda file, name=name, other=other: file.__setitem__(name, other))
        for name in ("actions", "filled", "terminated", "avail_actions"):
            for value in (-1, 99, 2**31):
                other = np.full(whole[name].shape, value, np.int64)
                judged(name, value, lambda file, name=name, other=other: file.__setitem__(name, other))
    assert TALLY.total() - before >= 100


def test_malicious_arrays_in_vaults(home):
    import tensorstore

    values = {"observations": np.nan, "rewards": np.inf, "state": -np.inf, "actions": 5}
    for name, value in [*values.items(), ("actions", -1), ("vault_index", -1), ("vault_index", 2**30)]:
        path = home / "changed" / "vault"
        shutil.copytree(home / "vault", path)
        (path / SUMS).unlink()
        place = f"{'infos.' if name in ('state', 'legals') else ''}{name}{'' if name == 'vault_index' else '.'}"
        spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": f"file://{path}/", "path": place}}
        store = tensorstore.open(spec, open=True).result()
        store[(0,) * store.rank].write(value).result()
        judge("vault", path, f"{name} {value}", harmless=False)
        shutil.rmtree(path.parent)


def test_the_command_line_says_one_line(home, capsys):
    for layout, victim in (("own", "metadata.json"), ("omar", "seed_0_data/obs_0.npy"), ("h5", "part_0.h5")):
        path = home / layout
        verb = ["verify", path] if layout == "own" else ["import", layout, path, "--out", home / "imported"]
        for content in bombs().values():
            with replaced(path / victim, content):
                assert cli.main(["dataset", *map(str, verb)]) == 1
                error = capsys.readouterr().err
                assert error.count("\n") == 1 and str(path / victim) in error and "Traceback" not in error
