"""Distillation of a team's transformer into its agents: `madtkd` (Tseng et al. 2022, in the form that Shao et al. 2023 released).

A teacher reads what all agents see, one token an agent, and imitates the data. A student of each agent, the same transformer over
what it sees alone, imitates the data, the teacher, and how alike agents are to the teacher:

    student: -log pi_S(a) + divergence_weight KL(pi_T | pi_S) + relation_weight sum_{i != j} huber(c^T_ij, c^S_ij)
    teacher: -log pi_T(a) + teacher_relation sum_{i != j} huber(c^T_ij, c^S_ij)

c_ij is the cosine between what a perceptron makes of the features of agents i and j. Rewards are not read.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms import slots
from marl_bench.algorithms.networks import init_mlp
from marl_bench.algorithms.offline.policies import PolicyLearner
from marl_bench.algorithms.offline.recurrent import OfflineState, log_policy, valid_mean
from marl_bench.algorithms.offline.transformer import Transformer, gelu_mlp
from marl_bench.algorithms.value_based import picked
from marl_bench.datasets.sampling import Sequence
from marl_bench.datasets.source import OfflineSource
from marl_bench.environment import Environment, Observation, check_integer, check_range, field

WIDENING = 2
"""Hidden units of the perceptron on features for each of its inputs."""


@struct.dataclass
class MADTKD(PolicyLearner):
    """Imitation with a teacher that sees what all agents see. Raises as `PolicyLearner`."""

    hidden_sizes: tuple[int, ...] = field(
        (), static=True, doc="widths of the dense layers before the tokens", unit="units"
    )
    recurrent_size: int = field(0, static=True, doc="width of a GRU before the tokens; 0: no memory, as released")
    last_action: bool = field(False, static=True, doc="each agent also reads its own last action")
    embedding_size: int = field(32, static=True, doc="entries of a token", unit="units")
    learning_rate: float = field(5e-4, doc="Adam step size")
    weight_decay: float = field(0.1, doc="decay of weight matrices, in units of the step size")
    divergence_weight: float = field(0.5, doc="weight of the divergence from the teacher")
    relation_weight: float = field(0.5, doc="weight of the difference of relations from the teacher's")
    teacher_relation: float = field(0.0, doc="weight of the same in the teacher's loss")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "embedding_size", 1)
        for name in ("weight_decay", "divergence_weight", "relation_weight", "teacher_relation"):
            check_range(self, name, 0.0)

    @property
    def actions(self) -> str:
        """ "discrete"."""
        return "discrete"

    # --- networks ---------------------------------------------------------------------------------

    def init(self, key: jax.Array, source: OfflineSource) -> OfflineState:
        """Draw students, "actor", and the teacher."""
        env, size = source.environment, self.embedding_size
        count = slots.num_slots(self.slots(env))
        *key_tokens, key_students, key_teacher, key_run = jax.random.split(key, 5)

        def block(key: jax.Array, length: int) -> dict[str, Any]:
            key_block, key_map = jax.random.split(key)
            mapping = init_mlp(key_map, (size, WIDENING * size, size))
            return {"block": Transformer(length, size, env.num_actions).init(key_block), "map": mapping}

        tokens = [self.init_agents(key, env, size) for key in key_tokens]
        students = jax.vmap(lambda key: block(key, 1))(jax.random.split(key_students, count))
        teacher = jax.vmap(lambda key: block(key, env.num_agents))(key_teacher[None])
        networks = {"actor": {"token": tokens[0], **students}, "teacher_token": tokens[1], "teacher": teacher}
        return self.first_state(networks, {}, key_run, env)

    def students(
        self, params: Any, agents: tuple[int, ...] | jax.Array, tokens: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Logits [..., N, A] and mapped features [..., N, D] of `tokens` [..., N, D], each agent's for itself."""

        def one(params: Any, token: jax.Array) -> tuple[jax.Array, jax.Array]:
            block = Transformer(1, self.embedding_size, params["block"]["output"]["b"].shape[-1])
            features, logits = block.apply(params["block"], token[..., None, :])
            return logits[..., 0, :], gelu_mlp(params["map"], features[..., 0, :])

        rest = {name: params[name] for name in ("block", "map")}
        return slots.over_agents(one, agents, axis=tokens.ndim - 2)(rest, tokens)

    def taught(self, networks: Any, env: Environment, batch: Sequence) -> tuple[jax.Array, jax.Array]:
        """The same of the teacher, in every row of `batch`."""
        tokens = super().unrolled(networks["teacher_token"], env, batch)
        params = jax.tree.map(lambda leaf: leaf[0], networks["teacher"])
        features, logits = Transformer(env.num_agents, self.embedding_size, env.num_actions).apply(
            params["block"], tokens
        )
        return logits, gelu_mlp(params["map"], features)

    def unrolled(self, params: Any, env: Environment, batch: Sequence) -> jax.Array:
        """As in the base: the students' logits."""
        return self.students(params, self.slots(env), super().unrolled(params["token"], env, batch))[0]

    def step(self, params: Any, agents: Any, memory: Any, observation: Observation) -> tuple[jax.Array, jax.Array]:
        """As in the base: the students' logits."""
        tokens, remembered = super().step(params["token"], agents, memory, observation)
        return self.students(params, agents, tokens)[0], remembered

    # --- learning ---------------------------------------------------------------------------------

    def loss(
        self, networks: Any, target: Any, env: Environment, batch: Sequence, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Losses of students and teacher, summed: neither changes the other; scalars to log."""
        del target, key
        assert batch.mask is not None
        mask, action, valid = batch.mask[:-1], batch.action[:-1], batch.valid
        tokens = super().unrolled(networks["actor"]["token"], env, batch)
        logits, features = self.students(networks["actor"], self.slots(env), tokens)
        teacher_logits, teacher_features = self.taught(networks, env, batch)
        log_student, log_teacher = log_policy(logits[:-1], mask), log_policy(teacher_logits[:-1], mask)
        student, teacher = cosines(features[:-1]), cosines(teacher_features[:-1])
        held, fixed = jax.lax.stop_gradient(log_teacher), jax.lax.stop_gradient
        losses = {
            "imitation": -valid_mean(picked(log_student, action), valid),
            "teacher_imitation": -valid_mean(picked(log_teacher, action), valid),
            "divergence": valid_mean(jnp.sum(jnp.exp(held) * (held - log_student), axis=-1), valid),
            "relation": valid_mean(unlike(fixed(teacher), student), valid),
        }
        loss = losses["imitation"] + losses["teacher_imitation"]
        loss += self.divergence_weight * losses["divergence"] + self.relation_weight * losses["relation"]
        loss += self.teacher_relation * valid_mean(unlike(teacher, fixed(student)), valid)
        return loss, losses

    def update(self, state: OfflineState, source: OfflineSource) -> tuple[OfflineState, dict[str, jax.Array]]:
        """One gradient step on `batch_size` episodes, and the decay of weight matrices, apart from it."""
        following, metrics = super().update(state, source)

        def decayed(path: Any, new: jax.Array, old: jax.Array) -> jax.Array:
            return new - self.learning_rate * self.weight_decay * old if path[-1] == MATRIX else new

        new, old = ({name: of.params[name] for name in state.opt_state} for of in (following, state))
        networks = jax.tree_util.tree_map_with_path(decayed, new, old)
        return dataclasses.replace(following, params={**following.params, **networks}), metrics


MATRIX = jax.tree_util.DictKey("w")


def cosines(features: jax.Array) -> jax.Array:
    """[..., N, N] of the angles between the agents' features [..., N, D]."""
    length = jnp.sqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True) + 1e-12)
    unit = features / length
    return jnp.einsum("...id,...jd->...ij", unit, unit, precision="highest")


def unlike(one: jax.Array, other: jax.Array) -> jax.Array:
    """[...] sum of Huber's loss over pairs i != j of two matrices [..., N, N]."""
    error = jnp.abs(one - other)
    loss = jnp.where(error < 1.0, 0.5 * jnp.square(error), error - 0.5)
    return jnp.sum(jnp.where(jnp.eye(one.shape[-1], dtype=bool), 0.0, loss), axis=(-2, -1))
