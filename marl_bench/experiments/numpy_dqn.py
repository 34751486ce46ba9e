"""Shared-policy DQN on the network Prisoner's Dilemma in plain NumPy: baseline for speed, oracle for tests.

Source: Weng & Lee 2026, arXiv:2601.05509. All agents (or each group of agents) share one small Q-network, trained by
double DQN with uncorrected n-step returns on the last few environment steps. There are no shortcuts: the network is
evaluated for every agent at every step, and replay keeps whole transitions. No graphs, logs or checkpoints.

Networks are dicts `{"w1": [O, H], "b1": [H], "w2": [H, 2], "b2": [2]}` used as `x @ w1 + b1`; every function also
takes a leading group axis G on all of them. Actions are 0 = cooperate, 1 = defect.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Params = dict[str, Array]
_POSITIVE = ("initial_temperature", "final_temperature", "evaluation_temperature", "max_gradient_norm")
_COUNTS = ("anneal_steps", "num_groups", "hidden_size", "n_step", "batch_size", "update_period", "target_period")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hyperparameters with the paper's symbols; the defaults are the paper's, apart from tau_0, which it sweeps."""

    initial_temperature: float = 0.66  # tau_0 > 0, Boltzmann temperature of the first action, in units of reward
    final_temperature: float = 0.10  # tau_f > 0, reached after `anneal_steps`
    evaluation_temperature: float = 0.10  # tau_eval > 0
    anneal_steps: int = 95_000  # A >= 1, environment steps of the linear fall from tau_0 to tau_f
    num_groups: int = 1  # G equal groups, each with its own network, replay and optimiser
    hidden_size: int = 96
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    max_gradient_norm: float = 0.5  # global L2 norm of one network's gradient
    discount: float = 0.99  # gamma in [0, 1]
    n_step: int = 5  # rewards in a full target window, at most `buffer_steps`
    batch_size: int = 256  # records per update and group, drawn with replacement
    buffer_steps: int = 100  # environment steps that replay covers
    update_period: int = 4  # environment steps per gradient update; the first follows step 0
    target_period: int = 2000  # environment steps between target copies
    double: bool = True  # the online network chooses the bootstrap action
    learner_inputs: tuple[str, ...] = ()  # "temperature", "progress": appended to every view in this order

    def __post_init__(self) -> None:
        limits = {name: (1e-6, 1e6) for name in _POSITIVE} | {name: (1, 1e9) for name in _COUNTS}
        limits |= {"learning_rate": (0, 1e6), "weight_decay": (0, 1e6), "discount": (0, 1)}
        for name, (low, high) in (limits | {"buffer_steps": (self.n_step, 1e9)}).items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"Settings.{name}={getattr(self, name)!r}: must be from {low:g} to {high:g}")
        if not set(self.learner_inputs) <= {"temperature", "progress"}:
            raise ValueError(f"learner_inputs={self.learner_inputs!r}: entries must be 'temperature' or 'progress'")


class Batch(NamedTuple):
    """Replay records (step s, some agent) with their n-step windows; any leading axes, here written [B]."""

    observation: Array  # [B, O] o_s
    action: Array  # [B] integer a_s
    rewards: Array  # [B, n] r_s ... r_{s+n-1}; zero from the second on without a full window
    full_window: Array  # [B] bool, True where the n-step target applies
    bootstrap_observation: Array  # [B, O] o_{s+n}, or o_{s+1} without a full window


class AdamState(NamedTuple):
    """State of AdamW: `steps` done, and the moments `mean`, `variance`, shaped like the parameters."""

    steps: int
    mean: Params
    variance: Params


def donation_payoff(dilemma_strength: float) -> NDArray[np.float64]:
    """[2, 2] payoff [own action, partner's action]: R = 1, S = -Dr, T = 1 + Dr, P = 0 with Dr = `dilemma_strength`."""
    return np.array([[1.0, -dilemma_strength], [1.0 + dilemma_strength, 0.0]])


def observe(actions: Array, neighbours: Array, dtype: Any = np.float32) -> Array:
    """Views [..., N, degree + 1] of the last joint action [..., N]: neighbours in slot order, then oneself; 0 or 1."""
    return np.concatenate([actions[..., neighbours], actions[..., None]], axis=-1).astype(dtype)


def rewards(actions: Array, neighbours: Array, payoff: Array) -> Array:
    """Rewards [..., N]: mean over neighbours j of payoff[a_i, a_j] for the joint action [..., N] of the same step."""
    return payoff[actions[..., None], actions[..., neighbours]].mean(axis=-1)


def temperature(count: float, initial_temperature: float, final_temperature: float, anneal_steps: int) -> float:
    """tau(c) = tau_0 + (tau_f - tau_0) min(c / A, 1) after `count` steps."""
    return initial_temperature + (final_temperature - initial_temperature) * min(count / anneal_steps, 1.0)


def exploration_intensity(
    initial_temperature: float, final_temperature: float = 0.1, anneal_steps: int = 95_000
) -> float:
    """B, the paper's exploration intensity: the mean of tau(1) ... tau(A // 2), in units of reward.

    B = tau_0 - (tau_0 - tau_f) (A // 2 + 1) / (2 A); the log starts at tau(1), one step after the first action.
    """
    fall = initial_temperature - final_temperature
    return initial_temperature - fall * (anneal_steps // 2 + 1) / (2 * anneal_steps)


def due(count: int, period: int) -> bool:
    """True if `count` is a multiple of `period`: updates by the step t = 0, 1, ..., target copies by c = t + 1."""
    return count % period == 0


def augmented_inputs(count: int, settings: Settings) -> list[float]:
    """The `learner_inputs` of a view built when `count` steps are done, each in [0, 1].

    temperature: (tau(c + 1) - tau_f) / max(1e-6, tau_0 - tau_f), clipped; progress: min(1, (c + 1) / A).
    """
    first, last = settings.initial_temperature, settings.final_temperature
    share = (temperature(count + 1, first, last, settings.anneal_steps) - last) / max(1e-6, first - last)
    values = {"temperature": min(max(share, 0.0), 1.0), "progress": min(1.0, (count + 1) / settings.anneal_steps)}
    return [values[name] for name in settings.learner_inputs]


def init_params(rng: np.random.Generator, num_inputs: int, settings: Settings, dtype: Any = np.float32) -> Params:
    """Draw weights and biases i.i.d. uniform in +-1 / sqrt(fan_in), with a leading group axis G."""
    params = {}
    for layer, fan_in, fan_out in (("1", num_inputs, settings.hidden_size), ("2", settings.hidden_size, 2)):
        for name, shape in (("w" + layer, (fan_in, fan_out)), ("b" + layer, (fan_out,))):
            params[name] = rng.uniform(-1, 1, (settings.num_groups, *shape)).astype(dtype) / fan_in**0.5
    return params


def forward(params: Params, observation: Array) -> tuple[Array, Array]:
    """Q-values [..., B, 2] and post-ReLU activations [..., B, H] at observations [..., B, O]."""
    hidden = observation @ params["w1"]
    # In place: fresh temporaries of this size cost four times the arithmetic.
    hidden += params["b1"][..., None, :]
    np.maximum(hidden, 0, out=hidden)
    return hidden @ params["w2"] + params["b2"][..., None, :], hidden


def n_step_targets(
    batch: Batch, online: Array, target: Array, discount: float, n_step: int, double: bool = True
) -> Array:
    """y = sum_{k<n} gamma^k r_{s+k} + gamma^n Q_tgt(o_{s+n}, argmax_a Q_onl(o_{s+n}, a)); n = 1 without a full window.

    Uncorrected n-step double DQN; without `double` the target network also chooses the action.

    Args:
      batch: records [..., B]; online, target: [..., B, 2] Q-values at `batch.bootstrap_observation`.
      discount, n_step, double: as in `Settings`.
    """
    best = np.argmax(online if double else target, axis=-1)
    bootstrap = np.take_along_axis(target, best[..., None], axis=-1)[..., 0]
    powers = np.array([discount**k for k in range(n_step + 1)], bootstrap.dtype)
    gain = np.where(batch.full_window, (batch.rewards * powers[:n_step]).sum(axis=-1), batch.rewards[..., 0])
    return gain + np.where(batch.full_window, powers[n_step], powers[1]) * bootstrap


def targets(
    params: Params, target_params: Params, batch: Batch, discount: float, n_step: int, double: bool = True
) -> Array:
    """Targets [..., B] of `n_step_targets` with the online and the target network as Q-functions."""
    online, target = (forward(network, batch.bootstrap_observation)[0] for network in (params, target_params))
    return n_step_targets(batch, online, target, discount, n_step, double)


def loss_and_gradient(
    params: Params, target_params: Params, batch: Batch, discount: float, n_step: int, double: bool = True
) -> tuple[Array, Params]:
    """Mean Huber loss (delta = 1) of Q(o_s, a_s) against the fixed targets, and its gradient by hand.

    Args:
      params, target_params: online and target network, both with or both without a group axis.
      batch: records [B], or [G, B] with a group axis; discount, n_step, double: as in `Settings`.
    Returns:
      loss: [] or [G]; gradient: shaped like `params`.
    """
    target = targets(params, target_params, batch, discount, n_step, double)
    q_values, hidden = forward(params, batch.observation)
    action = batch.action[..., None].astype(np.intp)
    error = np.take_along_axis(q_values, action, axis=-1)[..., 0] - target
    size = np.abs(error)
    loss = np.where(size < 1, 0.5 * error * error, size - 0.5).mean(axis=-1)
    d_q = np.zeros_like(q_values)
    np.put_along_axis(d_q, action, (np.clip(error, -1, 1) / error.shape[-1])[..., None], axis=-1)
    d_hidden = (d_q @ params["w2"].swapaxes(-1, -2)) * (hidden > 0)
    return loss, {
        "w1": batch.observation.swapaxes(-1, -2) @ d_hidden,
        "b1": d_hidden.sum(axis=-2),
        "w2": hidden.swapaxes(-1, -2) @ d_q,
        "b2": d_q.sum(axis=-2),
    }


def clip_by_global_norm(gradient: Params, max_norm: float) -> Params:
    """Scale each network's gradient so that its global L2 norm is at most `max_norm`."""
    axes = {name: (-2, -1) if name.startswith("w") else (-1,) for name in gradient}
    norm = np.sqrt(sum(np.square(g).sum(axis=axes[name]) for name, g in gradient.items()))
    scale = max_norm / np.maximum(norm, max_norm)
    return {name: g * np.expand_dims(scale, axes[name]).astype(g.dtype) for name, g in gradient.items()}


def adam_init(params: Params) -> AdamState:
    """The state of AdamW before the first step: zero moments."""
    mean, variance = ({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2))
    return AdamState(0, mean, variance)


def adamw_step(
    params: Params, gradient: Params, state: AdamState, learning_rate: float = 1e-4, weight_decay: float = 1e-4
) -> tuple[Params, AdamState]:
    """One AdamW step (Loshchilov & Hutter 2019): beta = (0.9, 0.999), eps = 1e-8, decoupled decay of all parameters.

    p <- p - lr (m / (sqrt(v) + eps) + wd p), with bias-corrected moments m, v. Clip the gradient before, not here.
    """
    steps = state.steps + 1
    mean = {name: 0.9 * state.mean[name] + 0.1 * g for name, g in gradient.items()}
    variance = {name: 0.999 * state.variance[name] + 0.001 * g * g for name, g in gradient.items()}
    new = {}
    for name, p in params.items():
        direction = mean[name] / (1 - 0.9**steps) / (np.sqrt(variance[name] / (1 - 0.999**steps)) + 1e-8)
        new[name] = p - learning_rate * (direction + weight_decay * p)
    return new, AdamState(steps, mean, variance)


def batch_from_history(
    action_history: Array, neighbours: Array, payoff: Array, sample_steps: Array, sample_agents: Array,
    newest_step: int, n_step: int,
) -> Batch:  # fmt: skip
    """Rebuild the replay records (agent, step) from the joint actions alone, in the payoff's dtype.

    Args:
      action_history: [T + 1, N]; row 0 the random initial joint action, row t + 1 the actions of step t.
      neighbours, payoff: [N, degree] neighbour table and [2, 2] floats.
      sample_steps, sample_agents: [B] steps s, 0 <= s <= newest_step, and agents.
      newest_step: newest step in replay, below T; a record of age newest_step - s >= n_step - 1 has a full window.
    """
    views = observe(action_history, neighbours, payoff.dtype)
    gains = rewards(action_history[1:], neighbours, payoff)
    full = newest_step - sample_steps >= n_step - 1
    window = gains[sample_steps[:, None] + np.where(full[:, None], np.arange(n_step), 0), sample_agents[:, None]]
    window[:, 1:] *= full[:, None]
    bootstrap = views[sample_steps + np.where(full, n_step, 1), sample_agents]
    actions = action_history[sample_steps + 1, sample_agents]
    return Batch(views[sample_steps, sample_agents], actions, window, full, bootstrap)


def sample_targets_from_history(
    action_history: Array, neighbours: Array, payoff: Array, sample_steps: Array, sample_agents: Array,
    newest_step: int, n_step: int, discount: float,
    q_online: Callable[[Array], Array], q_target: Callable[[Array], Array], double: bool = True,
) -> Array:  # fmt: skip
    """Targets [B] of `batch_from_history`; `q_online`, `q_target` map observations [B, O] to Q-values [B, 2]."""
    batch = batch_from_history(action_history, neighbours, payoff, sample_steps, sample_agents, newest_step, n_step)
    views = batch.bootstrap_observation
    return n_step_targets(batch, q_online(views), q_target(views), discount, n_step, double)


class Replay:
    """Ring of the last `capacity` environment steps (`filled` so far), each with the transitions of all N agents.

    A record is (observation, action, reward, next observation); its step stands in `step` and its agent is its
    position, so a window never crosses the write pointer: it exists exactly if the record is old enough.
    """

    def __init__(self, capacity: int, num_agents: int, num_inputs: int, dtype: Any = np.float32) -> None:
        self.capacity, self.newest_step, self.filled = capacity, -1, 0
        self.step = np.full(capacity, -1, np.int64)
        self.observation, self.next_observation = np.zeros((2, capacity, num_agents, num_inputs), dtype)
        self.action = np.zeros((capacity, num_agents), np.int8)
        self.reward = np.zeros((capacity, num_agents), dtype)

    def append(self, observation: Array, action: Array, reward: Array, next_observation: Array) -> None:
        """Store one step: [N, O], [N], [N], [N, O]; it overwrites the oldest when the ring is full."""
        self.newest_step += 1
        self.filled = min(self.newest_step + 1, self.capacity)
        slot = self.newest_step % self.capacity
        self.step[slot] = self.newest_step
        self.observation[slot], self.action[slot] = observation, action
        self.reward[slot], self.next_observation[slot] = reward, next_observation

    def gather(self, slot: Array, agent: Array, n_step: int) -> Batch:
        """The records in ring rows `slot` [...] (below `filled`) of agents `agent` [...], with their windows."""
        full = self.newest_step - self.step[slot] >= n_step - 1
        ahead = np.where(full[..., None], np.arange(n_step), 0)
        window = self.reward[(slot[..., None] + ahead) % self.capacity, agent[..., None]]
        window[..., 1:] *= full[..., None]
        bootstrap = self.next_observation[(slot + ahead[..., -1]) % self.capacity, agent]
        return Batch(self.observation[slot, agent], self.action[slot, agent], window, full, bootstrap)


class NumpyDQN:
    """One training run of the shared (or grouped) DQN, with all draws from `seed`.

    Args:
      neighbours, payoff: [N, degree] neighbour table and [2, 2] payoff [own action, partner's action].
      settings: hyperparameters; None for the defaults.
      dtype: float type of networks, views and rewards.
    Attributes:
      params, target_params: networks with a leading group axis; members: [G, N / G] agents of each, at random.
      actions: [N] int8 last joint action; observation: [N, O] the views acted on next.
      count, updates, target_copies: training steps, gradient updates and target copies done.
    Raises:
      ValueError: when the groups are unequal or replay can never hold one batch.
    """

    def __init__(
        self, neighbours: Array, payoff: Array, settings: Settings | None = None, seed: int = 0, dtype: Any = np.float32
    ) -> None:
        self.settings = settings = settings or Settings()
        self.neighbours, self.payoff, self.dtype = np.asarray(neighbours), np.asarray(payoff, dtype), dtype
        num_agents, groups = len(self.neighbours), settings.num_groups
        if num_agents % groups:
            raise ValueError(f"num_groups={groups}: must divide the {num_agents} agents")
        self.group_size = num_agents // groups
        if settings.buffer_steps * self.group_size < settings.batch_size:
            least = -(-settings.batch_size // self.group_size)
            raise ValueError(f"buffer_steps={settings.buffer_steps}: must be >= {least} to ever hold one batch")
        streams = np.random.SeedSequence(seed).spawn(4)
        init_rng, group_rng, self._action_rng, self._replay_rng = map(np.random.default_rng, streams)
        order = np.arange(num_agents) if groups == 1 else group_rng.permutation(num_agents)
        self.members = order.reshape(groups, self.group_size)
        num_inputs = self.neighbours.shape[1] + 1 + len(settings.learner_inputs)
        self.params = init_params(init_rng, num_inputs, settings, dtype)
        self.target_params = {name: p.copy() for name, p in self.params.items()}
        self.opt_state = adam_init(self.params)
        self.replay = Replay(settings.buffer_steps, num_agents, num_inputs, dtype)
        self.actions = self._action_rng.integers(2, size=num_agents, dtype=np.int8)
        self.count = self.updates = self.target_copies = 0
        self.observation = self._view(augmented_inputs(0, settings))

    def step(self) -> float:
        """One training step: act, store, perhaps update, count, perhaps copy; returns the cooperation rate."""
        observation, s = self.observation, self.settings
        tau = temperature(self.count, s.initial_temperature, s.final_temperature, s.anneal_steps)
        self.actions = self._sample_actions(self.q_values(observation), tau)
        self.observation = self._view(augmented_inputs(self.count, s))
        reward = rewards(self.actions, self.neighbours, self.payoff)
        self.replay.append(observation, self.actions, reward, self.observation)
        if due(self.count, s.update_period) and self.replay.filled * self.group_size >= s.batch_size:
            self._update()
        self.count += 1
        if due(self.count, s.target_period):
            self.target_params = {name: p.copy() for name, p in self.params.items()}
            self.target_copies += 1
        return float(np.mean(self.actions == 0))

    def run(self, steps: int) -> NDArray[np.float64]:
        """Train for `steps` steps; returns their cooperation rates [steps]."""
        return np.array([self.step() for _ in range(steps)])

    def evaluate(self, steps: int = 5000) -> dict[str, Any]:
        """Go on playing without learning, at the evaluation temperature.

        Returns:
          cooperation_rate, q_gap (largest minus smallest Q), signed_gap (Q(C) - Q(D)), value_level (mean Q): means over
          steps and agents, Q-values at the observations acted on; rates: [steps] cooperation rate of every step.
        """
        finished = augmented_inputs(self.settings.anneal_steps, self.settings)
        rates, means = np.empty(steps), np.empty((steps, 3))
        self.observation = self._view(finished)
        for index in range(steps):
            q_values = self.q_values(self.observation)
            gap = q_values[:, 0] - q_values[:, 1]
            means[index] = np.abs(gap).mean(), gap.mean(), q_values.mean()
            self.actions = self._sample_actions(q_values, self.settings.evaluation_temperature)
            self.observation = self._view(finished)
            rates[index] = np.mean(self.actions == 0)
        averages = dict(zip(("q_gap", "signed_gap", "value_level"), means.mean(axis=0).tolist(), strict=True))
        return {"cooperation_rate": float(rates.mean()), **averages, "rates": rates}

    def q_values(self, observation: Array) -> Array:
        """Q-values [N, 2] of all agents, each by its group's network, at observations [N, O]."""
        values = np.empty((len(self.neighbours), 2), self.dtype)
        values[self.members] = forward(self.params, observation[self.members])[0]
        return values

    def _update(self) -> None:
        s, shape = self.settings, (self.settings.num_groups, self.settings.batch_size)
        record = self._replay_rng.integers(self.replay.filled * self.group_size, size=shape)
        slot, position = np.divmod(record, self.group_size)
        batch = self.replay.gather(slot, np.take_along_axis(self.members, position, axis=1), s.n_step)
        gradient = loss_and_gradient(self.params, self.target_params, batch, s.discount, s.n_step, s.double)[1]
        gradient = clip_by_global_norm(gradient, s.max_gradient_norm)
        self.params, self.opt_state = adamw_step(self.params, gradient, self.opt_state, s.learning_rate, s.weight_decay)
        self.updates += 1

    def _view(self, inputs: list[float]) -> Array:
        view = observe(self.actions, self.neighbours, self.dtype)
        if not inputs:
            return view
        return np.concatenate([view, np.full((len(view), len(inputs)), inputs, self.dtype)], axis=1)

    def _sample_actions(self, q_values: Array, tau: float) -> NDArray[np.int8]:
        """[N] actions drawn from softmax(Q / tau)."""
        weight = np.exp((q_values - q_values.max(axis=1, keepdims=True)) / tau)
        cooperate = weight[:, 0] / weight.sum(axis=1)
        return (self._action_rng.random(len(q_values), self.dtype) >= cooperate).astype(np.int8)
