"""Pages that cannot lie: their code runs, their commands parse, their links and tables agree with the code."""

from __future__ import annotations

import copy
import math
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import yaml

import marl_bench
from marl_bench import listing, registry
from marl_bench.cli import app
from marl_bench.experiments import overrides
from marl_bench.experiments.cells import SweepConfig
from marl_bench.experiments.papers import PAPERS, collapse_grid
from marl_bench.experiments.papers.collapse_grid import SCALES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [page for page in PAGES if "results" not in page.relative_to(ROOT).parts]
"""Pages that people wrote; those below docs/results are output of `marl-bench reproduce`."""

NOT_EXECUTED = "<!-- not executed -->"
BLOCK = re.compile(r"^([^\n]*)\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"^\s*(marl-bench .*)$", re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> list[tuple[int, str]]:
    """Number of the first line, and source, of each Python block that is to be executed."""
    found = [match for match in BLOCK.finditer("\n" + text) if match[1].strip() != NOT_EXECUTED]
    return [(text.count("\n", 0, match.start(2) - 1), match[2]) for match in found]


def test_blocks_are_found():
    text = f"# A\n\n```python\nx = 1\n```\n{NOT_EXECUTED}\n```python\ny\n```\n\n```python\nz = 2\n```\n"
    assert blocks(text) == [(3, "x = 1\n"), (11, "z = 2\n")]
    assert {name(page) for page in PAGES if blocks(page.read_text())} >= {"README.md", "docs/plug_in.md"}


@pytest.mark.parametrize("page", [page for page in WRITTEN if blocks(page.read_text())], ids=name)
def test_code_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run in order, in one module and one empty folder."""
    module = types.ModuleType("a_page")
    monkeypatch.setitem(sys.modules, "a_page", module)
    monkeypatch.setattr(registry, "_REGISTERED", copy.deepcopy(registry._REGISTERED))
    monkeypatch.chdir(tmp_path)
    for line, source in blocks(page.read_text()):
        # Empty lines in front make a traceback point into the page.
        exec(compile("\n" * line + source, str(page), "exec"), module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    local = [link for link in LINK.findall(page.read_text()) if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_commands_are_understood(page):
    text = page.read_text().replace("\\\n", " ")
    for line in COMMAND.findall(text):
        words = shlex.split(line.split(" #")[0])
        if words[1].startswith("--"):
            continue
        assert words[1] in set(app), line
        if words[1] == "reproduce":
            assert words[2] in PAPERS, line
        tokens = [word for word in words[2:] if "=" in word]
        if words[1] == "run" and "env=my_pkg" not in line:
            whole = any(token.startswith("env=") for token in tokens)
            SweepConfig.from_tokens(tokens) if whole else overrides.parse_tokens(tokens)


def test_navigation_names_every_page_once():
    entries: list[str] = []

    def collect(item: object) -> None:
        if isinstance(item, str):
            entries.append(item)
        for part in item if isinstance(item, list) else item.values() if isinstance(item, dict) else ():
            collect(part)

    collect(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(entries) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in WRITTEN[1:])


CLASSES = [
    *(("environment", known, f"docs/environments/{known}.md") for known in registry._BUILT_IN["environment"]),
    *(("learner", known, f"docs/learners/{known}.md") for known in registry._BUILT_IN["learner"]),
]


@pytest.mark.parametrize(("kind", "known", "page"), CLASSES)
def test_every_field_is_described(kind, known, page):
    text = (ROOT / page).read_text()
    for row in listing.describe_fields(registry.resolve(known, kind)):
        assert f"`{row.name}`" in text, row.name


@pytest.mark.parametrize(("kind", "known"), [("environment", "network_dilemma"), ("learner", "dqn")])
def test_stated_defaults_are_the_defaults(kind, known):
    page = ROOT / "docs" / f"{kind}s" / f"{known}.md"
    table = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", page.read_text(), re.MULTILINE))
    assert table == {row.name: row.default for row in listing.describe_fields(registry.resolve(known, kind))}


def test_stated_numbers_of_cells_are_those_that_run():
    page = (ROOT / "docs" / "papers" / "exploration_collapse.md").read_text()
    stated = {scale: int(cells) for scale, cells in re.findall(r"^\| `(\w+)` \| (\d+) \|$", page, re.MULTILINE)}
    assert stated == {scale: sum(cells_of(run.config) for run in collapse_grid.runs(scale)) for scale in SCALES}


def cells_of(config: SweepConfig) -> int:
    """Number of cells, without making them."""
    fields = (*config.environment_fields.values(), *config.learner_fields.values())
    return math.prod(len(values) for values in fields) * len(config.seeds)


def test_version_is_the_same_everywhere():
    assert f"## {marl_bench.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == marl_bench.__version__
