"""What a data set says of itself: world, behaviour, returns, licence, and the SHA-256 of every file. Read strictly.

A data set is a folder; `marl_bench/manifest.json` in it is written last and atomically, so what it describes is complete. It also
keeps the vault's own root (`manifest.ocdbt`, a few hundred bytes): an append that was cut short leaves the data before it readable.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import math
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from marl_bench import __version__
from marl_bench.errors import RunError
from marl_bench.runtime.files import canonical_json, digest_of

FOLDER = "marl_bench"
"""Folder of our own files inside a vault; other readers ignore it."""
MANIFEST = f"{FOLDER}/manifest.json"
ROOT = "manifest.ocdbt"
"""The vault's own root, the only one of its files that is ever replaced."""

_FORMAT = "marl-bench dataset 1"
_MAX_MANIFEST = 64 << 20
_MAX_ROOT = 1 << 20
_MAX_COUNT = 10**12
FILE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}){0,7}"
"""Names of files that lie inside a data set."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is known of a data set.

    Attributes:
      world: registered name or address of the environment; None if unknown.
      fields: its plain fields, name -> value.
      behaviour: which policies acted. tier: random, medium-replay, medium, expert, mixed, or None.
      licence: of the data.
      seed: of the collection, or None.
      random_return, expert_return: mean returns of the random and the expert policy, for normalised scores; None if unknown.
      recipe: how to make the data again: plain values.
      package: version of marl-bench that wrote it.
    """

    world: str | None = None
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    behaviour: str = "unknown"
    tier: str | None = None
    licence: str = "unknown"
    seed: int | None = None
    random_return: float | None = None
    expert_return: float | None = None
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    package: str = __version__


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the K data sets: its size, and the returns of its episodes (mean over agents, undiscounted)."""

    steps: int = 0
    episodes: int = 0
    return_mean: float = 0.0
    return_std: float = 0.0
    return_min: float = 0.0
    return_max: float = 0.0
    ended: bool = True
    """Whether its last step ended an episode."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Episodes that were written at once; `file` holds their lengths, returns and last observations."""

    part: int
    steps: int
    episodes: int
    file: str


@dataclasses.dataclass(frozen=True)
class File:
    """Size and digest of a file."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Contents:
    """What lies in the folder. `root`: bytes of the vault's root when this was written."""

    parts: tuple[Part, ...]
    chunks: tuple[Chunk, ...]
    files: dict[str, File]
    root: bytes


def encoded(manifest: Manifest, contents: Contents) -> bytes:
    """The text of `manifest.json`."""
    body = {
        "format": _FORMAT,
        **dataclasses.asdict(manifest),
        "parts": [dataclasses.asdict(part) for part in contents.parts],
        "chunks": [dataclasses.asdict(chunk) for chunk in contents.chunks],
        "files": {name: dataclasses.asdict(file) for name, file in sorted(contents.files.items())},
        "root": base64.b64encode(contents.root).decode(),
    }
    # Through JSON once, so that tuples and lists have one digest.
    body = json.loads(canonical_json(body))
    return json.dumps(body | {"sha256": digest_of(body)}, indent=1).encode() + b"\n"


def decoded(path: Path, text: bytes) -> tuple[Manifest, Contents]:
    """Manifest and contents from the text of `manifest.json`, every entry checked.

    Args:
      path: of the file, for messages.
    Raises:
      RunError: naming the first entry that is wrong.
    """
    try:
        body = parsed(text)
        if body.get("format") != _FORMAT:
            raise ValueError(f"format: expected {_FORMAT!r}, found {str(body.get('format'))[:60]!r}")
        digest = _text(body.pop("sha256", None), "sha256")
        if digest != digest_of(body):
            raise ValueError(f"sha256 of the other entries: expected {digest[:64]}, found {digest_of(body)}")
        return _manifest(body), _contents(body)
    except (ValueError, RecursionError, OverflowError) as error:
        raise RunError(f"{path}: {one_line(error)}; get the data set again from its source") from error


def parsed(text: bytes) -> dict[str, Any]:
    """A JSON object, without names that occur twice. Raises ValueError or RecursionError."""
    body = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repeats)
    if not isinstance(body, dict):
        raise ValueError("expected an object")
    return body


def one_line(error: object) -> str:
    """What an error says, or another text of unknown origin, fit for a message."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(str(error)[:2000].split()))[:400]


def check_plain(path: Path) -> int:
    """Bytes of a file. Raises RunError for links, devices and pipes; OSError."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise RunError(
            f"{path}: expected a regular file, not a link, folder or device; replace it by what it stands for"
        )
    return found.st_size


def read_bounded(path: Path, most: int = _MAX_MANIFEST) -> bytes:
    """A regular file of at most `most` bytes. Raises RunError, for links too."""
    try:
        size = check_plain(path)
        if size > most:
            raise RunError(f"{path}: {size} bytes, expected at most {most}; not a file of this format")
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); get the data set again from its source") from error


def file_of(path: Path) -> File:
    """Size and digest of a file, read in pieces. Raises OSError."""
    with open(path, "rb") as stream:
        return File(path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def check_file(folder: Path, name: str, expected: File) -> None:
    """Refuse a file that is missing, a link, below a link, or not the one expected. Raises RunError naming both digests."""
    path = folder / name
    remedy = "get the data set again from its source"
    try:
        for above in (*list(path.parents)[: name.count("/")], path):
            if stat.S_ISLNK(above.lstat().st_mode):
                raise RunError(f"{above}: is a link; a data set holds plain files only")
        found = check_plain(path)
        if found != expected.bytes:
            raise RunError(f"{path}: damaged: expected {expected.bytes} bytes, found {found}; {remedy}")
        digest = file_of(path).sha256
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    if digest != expected.sha256:
        raise RunError(f"{path}: damaged: expected SHA-256 {expected.sha256}, found {digest}; {remedy}")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("names an entry twice")
    return found


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _manifest(body: Mapping[str, Any]) -> Manifest:
    optional_number = lambda value, name: None if value is None else _number(value, name)  # noqa: E731
    read: dict[str, Callable[[Any, str], Any]] = {
        "world": lambda value, name: None if value is None else _text(value, name),
        "fields": _plain,
        "behaviour": _text,
        "tier": lambda value, name: None if value is None else _text(value, name),
        "licence": _text,
        "seed": lambda value, name: None if value is None else _count(value, name, 2**64),
        "random_return": optional_number,
        "expert_return": optional_number,
        "recipe": _plain,
        "package": _text,
    }
    return Manifest(**{name: of(body.get(name), name) for name, of in read.items()})


def _contents(body: Mapping[str, Any]) -> Contents:
    files = {}
    for name, entry in _plain(body.get("files"), "files").items():
        if not re.fullmatch(FILE_NAME, name):
            raise ValueError(f"files: {name[:100]!r} is not the name of a file inside the data set")
        entry = _plain(entry, f"files: {name}")
        digest = _text(entry.get("sha256"), f"files: {name}: sha256")
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"files: {name}: sha256 is not 64 digits of a hexadecimal number")
        files[name] = File(_count(entry.get("bytes"), f"files: {name}: bytes"), digest)
    parts = tuple(_part(_plain(entry, "parts")) for entry in _entries(body, "parts"))
    chunks = tuple(_chunk(_plain(entry, "chunks"), len(parts), files) for entry in _entries(body, "chunks"))
    for number, part in enumerate(parts):
        ours = [chunk for chunk in chunks if chunk.part == number]
        for name in ("steps", "episodes"):
            if sum(getattr(chunk, name) for chunk in ours) != getattr(part, name):
                raise ValueError(f"parts: {number}: {name} is not the sum of its chunks")
    text = _text(body.get("root"), "root", 2 * _MAX_ROOT)
    try:
        root = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("root: not in base 64") from error
    return Contents(parts, chunks, files, root)


def _part(entry: Mapping[str, Any]) -> Part:
    if not isinstance(entry.get("ended"), bool):
        raise ValueError("parts: ended: expected true or false")
    steps, episodes = (_count(entry.get(name), f"parts: {name}") for name in ("steps", "episodes"))
    names = ("return_mean", "return_std", "return_min", "return_max")
    mean, std, least, most = (_number(entry.get(name), f"parts: {name}") for name in names)
    return Part(steps, episodes, mean, std, least, most, entry["ended"])


def _chunk(entry: Mapping[str, Any], parts: int, files: Mapping[str, File]) -> Chunk:
    counts = {name: _count(entry.get(name), f"chunks: {name}") for name in ("part", "steps", "episodes")}
    file = _text(entry.get("file"), "chunks: file")
    if counts["part"] >= parts or file not in files or not 0 < counts["episodes"] <= counts["steps"]:
        raise ValueError(f"chunks: {file[:100]}: unknown part, unlisted file, or no episodes")
    return Chunk(**counts, file=file)


def _entries(body: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(body.get(name), list):
        raise ValueError(f"{name}: expected a list")
    return body[name]


def _plain(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected an object")
    return value


def _text(value: Any, name: str, most: int = 10_000) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"{name}: expected text of at most {most} characters")
    return value


def _count(value: Any, name: str, most: int = _MAX_COUNT) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name}: expected an integer from 0 to {most}, found {str(value)[:60]}")
    return value


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a number, found {str(value)[:60]}")
    return float(value)
