"""Rules that every source file keeps: which names it may use, what it may import, docstrings, sizes."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "marl_bench"
FILES = sorted(PACKAGE.rglob("*.py"))

MAX_FILE, MAX_FUNCTION = 400, 60
LONGER: dict[str, str] = {}
"""Files (`path`) and functions (`path:name`) that may be longer, each with the reason."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def every_file(function):
    return pytest.mark.parametrize("path", FILES, ids=name)(function)


# --- names -------------------------------------------------------------------------------------------------

REMOVED = (
    "jax.abstract_arrays", "jax.api_util", "jax.core", "jax.device_put_replicated", "jax.device_put_sharded",
    "jax.interpreters", "jax.lib", "jax.linear_util", "jax.pmap", "jax.random.PRNGKey", "jax.tree_flatten",
    "jax.tree_leaves", "jax.tree_map", "jax.tree_multimap", "jax.tree_transpose", "jax.tree_unflatten", "jax.util",
    "jax.xla_computation", "jax.experimental.host_callback", "jax.experimental.maps", "jax.experimental.pjit",
    "jax.experimental.shard_map", "jax.numpy.DeviceArray", "jax._src", "jaxlib",
)  # fmt: skip
"""Deprecated, removed or private names of JAX (prefixes)."""

UNSAFE = (
    "eval", "exec", "__import__", "pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve",
    "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all",
    "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "pandas.read_pickle", "pandas.eval", "numpy.load",
)  # fmt: skip
"""Names that can run what they read."""


def aliases(tree: ast.Module) -> dict[str, str]:
    """Local names of imported modules and objects, by what they stand for."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                known |= {alias.asname: alias.name} if alias.asname else {top: top}
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def dotted(node: ast.AST, known: dict[str, str]) -> str:
    """Full name of a name or attribute; empty for other expressions."""
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, known)
        return f"{owner}.{node.attr}" if owner else ""
    return known.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def used_names(tree: ast.Module) -> Iterator[str]:
    """Every full name that a module imports or uses."""
    known = aliases(tree)
    yield from known.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, (ast.Name, ast.Attribute)):
            yield dotted(node, known)


def faults(source: str) -> list[str]:
    """What a module uses of `REMOVED` and `UNSAFE`, and calls that can run what they read."""
    tree = ast.parse(source)
    known = aliases(tree)
    used = set(used_names(tree))
    found = [f for f in (*REMOVED, *UNSAFE) if any(n == f or n.startswith(f + ".") for n in used)]
    safe = {
        n.name
        for n in ast.walk(tree)
        if isinstance(n, ast.ClassDef) and "yaml.SafeLoader" in [dotted(b, known) for b in n.bases]
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any(dotted(item.context_expr, known) == "mesh" for item in node.items):
            found.append("with mesh")
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        loader = dotted(given["Loader"], known) if "Loader" in given else ""
        if dotted(node.func, known) == "yaml.load" and loader not in {"yaml.SafeLoader", *safe}:
            found.append("yaml.load")
        found += [k for k in ("allow_pickle", "shell") if k in given and getattr(given[k], "value", True) is not False]
    return found


@every_file
def test_no_removed_or_unsafe_name(path):
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import jax\njax.pmap(f)", "jax.pmap"),
        ("from jax import pmap", "jax.pmap"),
        ("import jax as j\nj.tree_map(f, t)", "jax.tree_map"),
        ("import jax.core as core", "jax.core"),
        ("from jax._src import xla_bridge", "jax._src"),
        ("from jax.experimental import host_callback as hcb", "jax.experimental.host_callback"),
        ("def f():\n    from jax.random import PRNGKey", "jax.random.PRNGKey"),
        ("with mesh:\n    pass", "with mesh"),
        ("eval('1')", "eval"),
        ("import pickle", "pickle"),
        ("import numpy as np\nnp.load('x')", "numpy.load"),
        ("read(path, allow_pickle=True)", "allow_pickle"),
        ("import subprocess\nsubprocess.run(x, shell=yes)", "shell"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("import yaml\nyaml.load(text, Loader=yaml.FullLoader)", "yaml.load"),
        ("import yaml\nclass L(yaml.Loader): pass\nyaml.load(text, Loader=L)", "yaml.load"),
    ],
)
def test_faults_are_found(source, fault):
    assert fault in faults(source)


def test_what_is_safe_passes():
    source = """
import jax, yaml, re
from jax.sharding import Mesh
class L(yaml.SafeLoader): pass
yaml.load(text, Loader=L), yaml.safe_load(text), np.save(x, y, allow_pickle=False)
jax.tree.map(f, t), jax.tree_util.tree_map(f, t), lowered.compile(), re.compile("x"), model.eval()
"""
    assert faults(source) == []


# --- layers ------------------------------------------------------------------------------------------------


def parts(*names: str) -> tuple[str, ...]:
    return tuple(f"marl_bench.{name}" for name in names)


UPPER = parts("runtime", "experiments", "report", "cli", "listing")
FORBIDDEN = {
    "envs": (*parts("algorithms"), *UPPER),
    "algorithms": (*parts("envs"), *UPPER),
    "checks": (*parts("envs", "algorithms"), *UPPER),
    "runtime": parts("envs", "algorithms", "experiments", "report", "cli", "listing"),
    "report": (
        *parts("envs", "algorithms", "experiments", "runtime", "cli", "listing"),
        *parts("environment", "learner", "wrappers", "registry", "checks", "check"),
        *("jax", "flax"),
    ),
    "experiments": parts("cli", "listing"),
}
"""What the modules of a folder may not import."""

CORE = (
    "environment",
    "specs",
    "learner",
    "wrappers",
    "naming",
    "random",
    "sharding",
    "errors",
    "registry",
    "presets",
    "scripted",
    "vector",
    "evaluation",
)
"""The contracts: they import nothing but each other."""


def imports(path: Path) -> set[str]:
    """Full names of all modules and objects that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_go_one_way(folder):
    files = list((PACKAGE / folder).rglob("*.py"))
    assert len(files) > 1
    wrong = {
        f"{name(path)}: {found}"
        for path in files
        for found in imports(path)
        if any(found == part or found.startswith(part + ".") for part in FORBIDDEN[folder])
    }
    assert wrong == set()


@pytest.mark.parametrize("module", CORE)
def test_contracts_import_only_each_other(module):
    allowed = {f"marl_bench.{part}" for part in CORE}
    ours = {found for found in imports(PACKAGE / f"{module}.py") if found.startswith("marl_bench.")}
    assert {found for found in ours if ".".join(found.split(".")[:2]) not in allowed} == set()


@pytest.mark.parametrize("room", ["envs", "algorithms", "experiments"])
def test_rooms_at_the_top_are_links_into_the_package(room):
    assert (ROOT / room).is_symlink() and os.readlink(ROOT / room) == f"marl_bench/{room}"


# --- docstrings and sizes ----------------------------------------------------------------------------------


def undocumented(node: ast.AST, prefix: str = "") -> Iterator[str]:
    """Public functions and classes of a module, and members of public classes, without a docstring."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            if not ast.get_docstring(child):
                yield prefix + child.name
            if isinstance(child, ast.ClassDef):
                yield from undocumented(child, f"{prefix}{child.name}.")


@every_file
def test_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) and list(undocumented(tree)) == []


def test_missing_docstrings_are_found():
    assert list(undocumented(ast.parse("def _f(): pass\ndef f(): pass\nclass A:\n 'x'\n def g(self): pass"))) == [
        "f",
        "A.g",
    ]


@every_file
def test_files_and_functions_are_short(path):
    source = path.read_text()
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = {f"{name(path)}:{f.name}" for f in functions if (f.end_lineno or 0) - f.lineno >= MAX_FUNCTION}
    if len(source.splitlines()) > MAX_FILE:
        long.add(name(path))
    assert long - set(LONGER) == set()


def test_exceptions_are_still_needed():
    assert all((ROOT / entry.partition(":")[0]).exists() and reason for entry, reason in LONGER.items())
