import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import marl_bench
from marl_bench import check
from marl_bench.checks.probe import Probe

TESTS = Path(__file__).parent
PLUGINS = TESTS / "plugins"
sys.path[:0] = [str(PLUGINS / "tragedy"), str(PLUGINS)]

import broken_envs  # noqa: E402
from tragedy_env import Tragedy  # noqa: E402


def names_it(sentences: list[str], fragment: str) -> bool:
    return any(fragment in sentence for sentence in sentences)


@pytest.fixture(scope="module")
def many() -> list[str]:
    return marl_bench.check_environment(broken_envs.ManyFaults(), num_steps=20)


def test_plug_in_by_address_conforms():
    environment = marl_bench.make("tragedy_env:Tragedy", regrowth=0.3, herders=2)
    assert marl_bench.check_environment(environment, num_steps=45) == []


@pytest.mark.parametrize("fields", [{"herders": 1, "days": 1}, {"herders": 300, "days": 2}], ids=str)
def test_one_agent_and_many_agents_conform(fields):
    assert marl_bench.check_environment(Tragedy(**fields), num_steps=4) == []


@pytest.mark.parametrize("fragment", broken_envs.MANY)
def test_each_of_many_faults_is_named(many, fragment):
    assert names_it(many, fragment), "\n".join(many)


def test_many_faults_have_their_own_sentences(many):
    hits = {next(sentence for sentence in many if fragment in sentence) for fragment in broken_envs.MANY}
    assert len(hits) == len(broken_envs.MANY) >= 12
    assert len(many) == len(set(many))
    assert not names_it(many, "stopped with")


@pytest.fixture(scope="module")
def good() -> Probe:
    return Probe(Tragedy(days=3), 8, 0)


FAULTS = [pytest.param(*fault, id=fault[0].__name__) for fault in broken_envs.FAULTS]


@pytest.mark.parametrize(("cls", "check_name", "fragment"), FAULTS)
def test_the_check_of_a_fault_names_it(good, cls, check_name, fragment):
    checks = {function.__name__: function for function in (*check.STATIC_CHECKS, *check.PLAYED_CHECKS)}
    assert list(checks[check_name](good)) == []
    assert names_it(list(checks[check_name](Probe(cls(days=3), 8, 0))), fragment)


FULL = [fault for fault in broken_envs.FAULTS if fault[0].__name__ in broken_envs.MASKED_IN_MANY]


@pytest.mark.parametrize(("cls", "fragment"), [pytest.param(c, f, id=c.__name__) for c, _, f in FULL])
def test_the_whole_kit_names_a_single_fault(cls, fragment):
    sentences = marl_bench.check_environment(cls(days=3), num_steps=8)
    assert names_it(sentences, fragment), "\n".join(sentences)
    assert not names_it(sentences, "stopped with")
    assert len(sentences) <= 3


def test_environment_that_cannot_reset_is_reported_not_raised():
    [sentence] = marl_bench.check_environment(broken_envs.NoStart(), num_steps=2)
    assert sentence.startswith("reset: fails with ZeroDivisionError")


def test_object_that_is_no_environment_is_reported():
    sentences = marl_bench.check_environment(object(), num_steps=2)
    assert names_it(sentences, "object: is not a dataclass")
    assert names_it(sentences, "derive the class from marl_bench.Environment")


def test_check_leaves_the_environment_alone():
    environment = broken_envs.BusyAttribute(days=3)
    sentences = marl_bench.check_environment(environment, num_steps=4)
    assert names_it(sentences, "step: changes the attribute upkeep")
    assert environment.upkeep == 0.1


def test_a_different_seed_plays_differently():
    first, second = (Probe(Tragedy(), 5, seed).walk.records[0].timestep for seed in (0, 1))
    assert first.extras["metrics"]["stock"] != second.extras["metrics"]["stock"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"env": Tragedy}, TypeError, "pass an object"),
        ({"env": marl_bench.AutoReset(Tragedy())}, TypeError, "pass the environment inside it"),
        ({"env": Tragedy(), "num_steps": 0}, ValueError, "num_steps=0"),
        ({"env": Tragedy(), "seed": -1}, ValueError, "seed=-1"),
    ],
    ids=str,
)
def test_misuse_raises(arguments, error, message):
    with pytest.raises(error, match=message):
        marl_bench.check_environment(**arguments)


def test_registered_by_entry_point(tmp_path):
    info = tmp_path / "tragedy_env-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tragedy-env\nVersion: 1.0\n")
    declared = (PLUGINS / "tragedy" / "pyproject.toml").read_text()
    group, line = re.search(r'\[project\.entry-points\."(.+)"\]\n(.+)', declared).groups()  # pyright: ignore
    (info / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")
    program = (
        "import json, sys; sys.path[:0] = json.loads(sys.argv[1])\n"
        "import marl_bench\n"
        "environment = marl_bench.make('tragedy', upkeep=0.25)\n"
        "print(json.dumps(['tragedy' in marl_bench.environments(), environment.upkeep]))\n"
    )
    paths = json.dumps([str(tmp_path), str(PLUGINS / "tragedy")])
    done = subprocess.run([sys.executable, "-c", program, paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, 0.25]


def test_guide_holds_a_conforming_environment(tmp_path, monkeypatch):
    guide = (TESTS.parent / "docs" / "plug_in.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert 30 <= len(block.splitlines()) <= 50
    (tmp_path / "guide_module.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    environment = marl_bench.make("guide_module:MyEnv", x=0.3)
    assert marl_bench.check_environment(environment, num_steps=20) == []


def test_leaves_of_a_plug_in_can_be_swept_in_one_program():
    upkeep = jnp.array([0.0, 0.1, 0.2])
    actions = jnp.full(3, 2)

    def reward(value):
        environment = Tragedy(upkeep=value)
        state, _ = environment.reset(jax.random.key(0))
        return environment.step(state, actions)[1].reward[0]

    rewards = jax.jit(jax.vmap(reward))(upkeep)
    # Two animals each: reward = 2 * (stock - upkeep), so a step of 0.1 in upkeep costs 0.2.
    assert jnp.allclose(jnp.diff(rewards), -0.2, atol=1e-6)
