"""Load a trained policy from a run directory, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.absolute_metric import Evaluated
from marl_bench.environment import Environment, Observation
from marl_bench.errors import RunError, UsageError
from marl_bench.experiments.cells import SweepConfig, expand
from marl_bench.learner import Learner, world_of
from marl_bench.runtime import checkpoint
from marl_bench.runtime.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A trained policy; call it, or hand it to `jax.jit`.

    Attributes:
      environment: the world it was trained in.
      learner: its hyperparameters.
      params: its parameters.
      columns: the cell's row (`env.*`, `learner.*`, `seed`).
    """

    environment: Environment
    learner: Learner
    params: Any
    columns: dict[str, Any]

    def initial_memory(self) -> Any:
        """Memory at the start of an episode; `()` for memoryless policies."""
        return self.learner.initial_memory(self.environment.num_agents)

    def __call__(
        self, observation: Observation, memory: Any, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """Choose actions.

        Args:
          observation: `Observation` of one environment (its number of agents may differ from training where the
            policy's network does not depend on it).
          memory: from `initial_memory()` or the previous call.
          key: [] typed PRNG key.
          greedy: True for the best action, False for the learner's evaluation policy.
        Returns:
          actions: [N], and the next memory.
        """
        names = self.environment.learner_inputs
        if names:
            inputs = self.learner.final_inputs(self.environment)  # type: ignore[attr-defined]
            view = jnp.asarray(observation.agents_view).at[..., -len(names) :].set(inputs)
            observation = observation._replace(agents_view=view)
        return self.learner.act(self.params, memory, observation, key, greedy)


def load_policy(run_dir: Path | str, cell: int = 0, *, best: bool = False) -> Policy:
    """Load the policy of one cell of a run from its newest intact checkpoint.

    Args:
      run_dir: the folder given as `--out`.
      cell: the cell's number (`cell` in `results.parquet`).
      best: the policy of the best evaluation so far instead of the last one; for runs with `evaluations`.
    Raises:
      RunError: when the folder or its checkpoint is missing or damaged, or is a pickle file (never opened).
      UsageError: when the run has no such cell, or no evaluations to choose the best policy by.
    """
    path = Path(run_dir)
    if path.is_file():
        checkpoint.restore_raw(path)  # refuses by name what must not be opened
    if not path.is_dir():
        raise RunError(f"{path}: no such run directory")
    folder = RunDirectory(path)
    if not folder.config_path.is_file():
        raise RunError(f"{path}: holds no config.yaml, so it is not a run directory; give the folder named by --out")
    specs = expand(SweepConfig.from_yaml(folder.config_path))
    if not 0 <= cell < len(specs):
        raise UsageError(f"cell={cell}: {path} has cells 0 to {len(specs) - 1}")
    spec = specs[cell]
    if best and not isinstance(spec.learner, Evaluated):
        raise UsageError(f"best=True: {path} was not evaluated while it trained; run it with evaluations=N")
    table = folder.read_cells()
    row = table[table["cell"] == cell].iloc[0]
    arrays, _, _ = checkpoint.restore_raw(folder.checkpoint_directory(int(row["pack"])))
    shapes = jax.eval_shape(
        lambda key: spec.learner.init(key, spec.environment).params, jax.eval_shape(lambda: jax.random.key(0))
    )

    def pick(leaf_path: Any, expected: Any) -> jax.Array:
        name = f".{'best_params' if best else 'params'}{jax.tree_util.keystr(leaf_path)}"
        if name not in arrays:
            raise RunError(f"{path}: the checkpoint has no leaf {name}; it was saved by another version")
        found = arrays[name][int(row["row"])]
        if found.shape != expected.shape:
            raise RunError(f"{path}: leaf {name} has shape {found.shape}, this version expects {expected.shape}")
        return jnp.asarray(found)

    params = jax.tree_util.tree_map_with_path(pick, shapes)
    return Policy(world_of(spec.environment), spec.learner, params, spec.columns)
