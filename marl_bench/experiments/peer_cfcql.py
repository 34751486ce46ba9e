"""CFCQL in plain eager PyTorch: the peer that `marl-bench bench offline` times.

The loop is of the released learner's kind (PyMARL): one over GRU steps, everything else batched over episodes, time and agents.
Nothing that our learner leaves out is computed, and nothing is done slowly on
purpose: inputs are put together once for all three networks, the mixer's hyper-networks run once, all n A counterfactual
values come from one product, and without a GRU there is no loop over time but that of the TD(lambda) targets.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.adapters.extras import import_extra
from marl_bench.algorithms.distributions import MASKED
from marl_bench.algorithms.offline.cfcql import CFCQL
from marl_bench.algorithms.offline.conservative import SMALL
from marl_bench.datasets.sampling import stretch
from marl_bench.datasets.source import OfflineSource


class PeerCFCQL:
    """One cell. Its settings are those of our learner, with a QMIX mixer, a model of the data, and a temperature below 100.

    Args:
      learner: our learner.
      source: with the data; all its episodes are kept as padded tensors.
    Raises:
      MissingExtra: without PyTorch.
    """

    def __init__(self, learner: CFCQL, source: OfflineSource) -> None:
        self._torch = torch = import_extra("torch", "torch")
        self.learner, env = learner, source.environment
        self._episodes = _all_episodes(torch, source)
        state_size, self._num_actions = self._episodes["state"].shape[-1], env.num_actions
        inputs = int(np.prod(env.observation_shape)) + env.num_actions + env.num_agents
        self.networks = torch.nn.ModuleDict(
            {
                "q": _agent(torch, learner, inputs, env.num_actions),
                "mixer": _mixer(torch, learner, state_size, env.num_agents),
            }
        )
        self.target = copy.deepcopy(self.networks)
        self.behaviour = _agent(torch, learner, inputs, env.num_actions)
        self._optimisers = [
            torch.optim.Adam(part.parameters(), lr=float(learner.learning_rate))
            for part in (self.networks, self.behaviour)
        ]
        self._updates = 0

    def load(self, params: Any, target: Any) -> None:
        """Take over our networks: `params`, `target` of an `OfflineState` of one cell with shared parameters."""
        for nets, ours in ((self.networks, params), (self.target, target)):
            _load_agent(self._torch, nets["q"], ours["q"])
            for name, layers in ours["mixer"].items():
                _load_layers(self._torch, nets["mixer"][name], layers)
        _load_agent(self._torch, self.behaviour, params["behaviour"])

    @property
    def threads(self) -> int:
        """Threads that PyTorch uses for one operation."""
        return self._torch.get_num_threads()

    @contextlib.contextmanager
    def using(self, threads: int) -> Iterator[None]:
        """Inside, PyTorch uses so many threads."""
        before = self.threads
        self._torch.set_num_threads(threads)
        try:
            yield
        finally:
            self._torch.set_num_threads(before)

    def update(self) -> float:
        """One gradient step on `batch_size` episodes drawn without replacement; the loss before it."""
        torch = self._torch
        loss = self.loss(torch.randperm(len(self._episodes["reward"]))[: self.learner.batch_size])
        for optimiser in self._optimisers:
            optimiser.zero_grad()
        loss.backward()
        for part, optimiser in zip((self.networks, self.behaviour), self._optimisers, strict=True):
            torch.nn.utils.clip_grad_norm_(part.parameters(), float(self.learner.max_grad_norm))
            optimiser.step()
        self._updates += 1
        if self._updates % int(self.learner.target_period) == 0:
            self.target.load_state_dict(self.networks.state_dict())
        return loss.item()

    def loss(self, chosen: Any) -> Any:
        """[] what is minimised on the episodes `chosen` [R] int64: temporal differences, conservative term, imitation."""
        torch, learner = self._torch, self.learner
        batch = {name: leaf[chosen] for name, leaf in self._episodes.items()}
        inputs, illegal, valid = self._inputs(batch), ~batch["mask"], batch["valid"]
        action = batch["action"][:, :-1, :, None]
        mean = lambda values: (values * valid).sum() / valid.sum()  # noqa: E731

        q = self._unrolled(self.networks["q"], inputs)
        picked = q[:, :-1].gather(3, action).squeeze(3)
        weights = self._weights(self.networks["mixer"], batch["state"][:, :-1])
        hidden, value = self._mixed(weights, picked)
        with torch.no_grad():
            best = q.masked_fill(illegal, MASKED).argmax(dim=3, keepdim=True)
            valuing = self._unrolled(self.target["q"], inputs).gather(3, best).squeeze(3)
            following = self._mixed(self._weights(self.target["mixer"], batch["state"]), valuing)[1]
            wanted = self._targets(batch, following)
        td = mean(0.5 * (value - wanted) ** 2)

        logits = self._unrolled(self.behaviour, inputs)[:, :-1].masked_fill(illegal[:, :-1], MASKED)
        log_behaviour = torch.log_softmax(logits, dim=3)
        imitation = -mean(log_behaviour.gather(3, action).squeeze(3).mean(dim=2))

        values = self._one_changed(weights, hidden, q[:, :-1] - picked.unsqueeze(3))
        values = values.masked_fill(illegal[:, :-1], MASKED)
        with torch.no_grad():
            chance = torch.softmax(values, dim=3) + SMALL
            terms = chance * (chance.log() - (log_behaviour.exp() + SMALL).log())
            deviation = terms.masked_fill(illegal[:, :-1], 0.0).sum(dim=3)
            share = torch.softmax(float(learner.temperature * learner.lambda_sign) * deviation, dim=2)
        term = mean((share * values.logsumexp(dim=3)).sum(dim=2) - value)
        return td + float(learner.conservative_weight) * term + imitation

    def loss_of(self, chosen: np.ndarray) -> float:
        """`loss` on the episodes `chosen` [R], as a number."""
        with self._torch.no_grad():
            return self.loss(self._torch.from_numpy(chosen)).item()

    def _inputs(self, batch: dict[str, Any]) -> Any:
        """[R, T + 1, N, I] views, one-hot last actions (none at first), one-hot numbers of the agents."""
        torch = self._torch
        view = batch["view"]
        last = torch.zeros(*view.shape[:3], self._num_actions)
        last[:, 1:] = batch["one_hot"][:, :-1]
        ids = torch.eye(view.shape[2]).expand(*view.shape[:2], -1, -1)
        return torch.cat([view, last, ids], dim=3)

    def _unrolled(self, nets: Any, inputs: Any) -> Any:
        """[R, T + 1, N, A] outputs of agents that start with an empty memory."""
        torch = self._torch
        rows, length, agents = inputs.shape[:3]
        if "gru" not in nets:
            return nets["output"](nets["dense"](inputs))
        features = nets["dense"](inputs.transpose(0, 1)).reshape(length, rows * agents, -1)
        memory, memories = torch.zeros(rows * agents, self.learner.recurrent_size), []
        for step in features:
            memory = nets["gru"](step, memory)
            memories.append(memory)
        return nets["output"](torch.stack(memories)).reshape(length, rows, agents, -1).transpose(0, 1)

    def _weights(self, mixer: Any, state: Any) -> tuple[Any, ...]:
        """|W_1| [R, T, N, E], b_1 [R, T, E], |w_2| [R, T, E] and b_2 [R, T, 1] in states [R, T, S]."""
        size = self.learner.mixing_size
        inner = mixer["w1"](state).abs().unflatten(2, (-1, size))
        return inner, mixer["b1"](state), mixer["w2"](state).abs(), mixer["b2"](state)

    def _mixed(self, weights: tuple[Any, ...], values: Any) -> tuple[Any, Any]:
        """Hidden layer before its activation [R, T, E], and the team's value [R, T], from values [R, T, N]."""
        inner, inner_bias, outer, outer_bias = weights
        hidden = (values.unsqueeze(2) @ inner).squeeze(2) + inner_bias
        joint = (self._torch.nn.functional.elu(hidden) * outer).sum(dim=2) + outer_bias.squeeze(2)
        return hidden, joint

    def _one_changed(self, weights: tuple[Any, ...], hidden: Any, change: Any) -> Any:
        """[R, T, N, A] the team's value if one agent's value changed by `change` [R, T, N, A]."""
        torch = self._torch
        inner, _, outer, outer_bias = weights
        layer = torch.addcmul(hidden[:, :, None, None], change.unsqueeze(4), inner.unsqueeze(3))
        layer = torch.nn.functional.elu(layer).flatten(2, 3)
        return (layer @ outer.unsqueeze(3)).squeeze(3).unflatten(2, change.shape[2:]) + outer_bias.unsqueeze(3)

    def _targets(self, batch: dict[str, Any], following: Any) -> Any:
        """[R, T] TD(lambda) targets from values [R, T + 1], cut where an episode ends, in whichever way."""
        gamma, trace = float(self.learner.discount), float(self.learner.td_lambda) * (1.0 - batch["cut"])
        follow = gamma * (1.0 - batch["over"])
        here = batch["reward"] + follow * (1.0 - trace) * following[:, 1:]
        onward, found = follow * trace, [following[:, -1]]
        for step in reversed(range(here.shape[1])):
            found.append(self._torch.addcmul(here[:, step], onward[:, step], found[-1]))
        return self._torch.stack(found[:0:-1], dim=1)


def _all_episodes(torch: Any, source: OfflineSource) -> dict[str, Any]:
    """Padded episodes [E, T + 1, ...] and steps [E, T, ...] as PyMARL keeps them, actions also as one-hot vectors."""
    assert source.data is not None
    count = int(source.data.num_episodes[source.part])
    data, part = jax.tree.map(jnp.asarray, source.data), jnp.asarray(source.part)
    rows = jax.tree.map(np.array, stretch(data, part, jnp.arange(count), jnp.zeros(count, int), source.longest))
    valid = rows.valid.astype(np.float32)
    arrays = {
        "view": rows.view.reshape(*rows.view.shape[:3], -1).astype(np.float32),
        "state": rows.state,
        "mask": rows.mask,
        "action": rows.action.astype(np.int64),
        "one_hot": np.eye(rows.mask.shape[-1], dtype=np.float32)[rows.action],
        "reward": rows.reward[:, :-1, 0],
        "over": 1.0 - rows.discount[:, :-1, 0],
        "cut": np.maximum(rows.is_last, np.pad(1.0 - valid[:, 1:], ((0, 0), (0, 1)))).astype(np.float32),
        "valid": valid,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _dense(torch: Any, sizes: tuple[int, ...]) -> Any:
    """Linear layers with ReLU in between."""
    layers = [torch.nn.Linear(*sizes[place : place + 2]) for place in range(len(sizes) - 1)]
    return torch.nn.Sequential(*[part for layer in layers for part in (layer, torch.nn.ReLU())][:-1])


def _agent(torch: Any, learner: CFCQL, inputs: int, outputs: int) -> Any:
    size = learner.recurrent_size
    dense = torch.nn.Sequential(*_dense(torch, (inputs, *learner.hidden_sizes)), torch.nn.ReLU())
    nets = {"dense": dense, "output": torch.nn.Linear(size or learner.hidden_sizes[-1], outputs)}
    if size:
        nets["gru"] = torch.nn.GRUCell(learner.hidden_sizes[-1], size)
    return torch.nn.ModuleDict(nets)


def _mixer(torch: Any, learner: CFCQL, state_size: int, num_agents: int) -> Any:
    size, hidden = learner.mixing_size, learner.hypernet_sizes
    shapes = {
        "w1": (state_size, *hidden, num_agents * size),
        "b1": (state_size, size),
        "w2": (state_size, *hidden, size),
        "b2": (state_size, size, 1),
    }
    return torch.nn.ModuleDict({name: _dense(torch, shape) for name, shape in shapes.items()})


def _load_agent(torch: Any, nets: Any, params: Any) -> None:
    _load_layers(torch, nets["dense"], params["dense"])
    _load_layers(torch, [nets["output"]], [params["output"]])
    if "gru" in nets:
        cell, ours = nets["gru"], {name: np.asarray(leaf)[0] for name, leaf in params["gru"].items()}
        # PyTorch has a second bias for each gate; ours has it only where it makes a difference, in the candidate.
        second = np.concatenate([np.zeros(2 * ours["c"].size, np.float32), ours["c"]])
        with torch.no_grad():
            for leaf, array in (
                (cell.weight_ih, ours["w"].T),
                (cell.weight_hh, ours["u"].T),
                (cell.bias_ih, ours["b"]),
                (cell.bias_hh, second),
            ):
                leaf.copy_(torch.from_numpy(np.array(array)))


def _load_layers(torch: Any, layers: Any, params: list[Any]) -> None:
    """Weights [1, in, out] and biases [1, out] of ours into the linear ones of `layers`."""
    linear = [layer for layer in layers if hasattr(layer, "weight")]
    with torch.no_grad():
        for layer, ours in zip(linear, params, strict=True):
            layer.weight.copy_(torch.from_numpy(np.array(np.asarray(ours["w"])[0].T)))
            layer.bias.copy_(torch.from_numpy(np.array(np.asarray(ours["b"])[0])))
