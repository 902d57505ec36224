"""IMPALA with a multiplicative interaction of observation and context: the whole idea in one file.

    python examples/impala_mi.py                                      # about a minute on one core
    python examples/impala_mi.py --seed 1 --learning_rate 1e-3        # every field of Settings is an option

One recurrent agent learns K tasks at once. Task i has a hidden matrix M_i, and the right action for a vector x is argmax_a (M_i x)_a.
In the tasks `map-i` the agent decides while it sees x. In the tasks `memory-i` it decides later and has to remember x. Each task has a
context z, a learned vector. The network multiplies x by a matrix W'(z), which is different for each task.

The file reads from the top down:

    - train                       the loop: play an unroll, learn from it, report.
    - Actor                       plays T steps in B environments and returns a Trajectory.
    - MultiplicativeInteraction   conditions once per context, modulates at every step.
    - Agent                       torso -> interaction with z -> LSTM -> policy and baseline.
    - Learner                     one update: IMPALA's loss and one step of Adam.
    - vtrace, PopArt              the targets of the baseline, and their normalisation per task.

Sources: IMPALA and V-trace (Espeholt et al. 2018), PopArt (Hessel et al. 2018), multiplicative interactions (Jayakumar et al. 2020).
A test compares this file with the framework: from the same weights and action noise, both have the same parameters after 20 updates.

The framework adds actor processes, several learners, GPUs and bf16. Its actors cache modulations, and all steps with the same context
share one matrix product. It has images, instructions, other actions, cores and fusions, lambda < 1 in V-trace, and replay. It saves
checkpoints, evaluates, recovers from failures, and bounds the effect of a sudden change of scale on PopArt.

Shapes:
    T  steps of an unroll            K  tasks                          X  inputs of the interaction
    B  environments, one a column    V  numbers in an observation      Y  outputs of the interaction
    A  actions                       Z  size of the context z          H  size of the LSTM
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from envs.conditional.suite import ConditionalConfig, make_spec
from envs.spec import EnvSpec, Slot, Split
from envs.suites import make_env
from envs.vector import MultitaskVectorEnv

TASKS = ConditionalConfig(tasks=["map", "memory"], num_tasks=4, delay=1)
"""map-0 to map-3 and memory-0 to memory-3. A memory task shows x once; the decision is due `delay` steps later.
An agent that does not know its task reaches a success of at most 0.53 on average."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Same defaults as `python train.py env=conditional fusion=mi`, but for the first two."""

    total_steps: int = 600_000  # of all environments; the learning rate falls linearly to 0
    updates_per_line: int = 50
    seed: int = 0
    unroll_length: int = 8  # T
    batch_size: int = 256  # B
    context_size: int = 32  # Z
    torso_size: int = 64
    fusion_size: int = 64  # Y
    core_size: int = 64  # H
    learning_rate: float = 5e-3
    epsilon: float = 1e-8  # of Adam
    max_gradient_norm: float = 1.0
    discounting: float = 0.99  # gamma
    baseline_cost: float = 0.5
    entropy_cost: float = 1e-3
    reward_clip: float = 1.0
    popart_step_size: float = 3e-4  # beta


def train(settings: Settings) -> None:
    """Trains one agent on all tasks. Prints the losses and the success per task."""
    torch.manual_seed(settings.seed)
    spec = make_spec(TASKS)
    agent = Agent(spec, settings)
    learner = Learner(agent, settings)
    actor = Actor(make_environments(spec, settings), agent)
    report = Report(spec.tasks)
    while learner.steps < settings.total_steps:
        trajectory = actor.unroll(gumbel_noise(settings.unroll_length, settings.batch_size, spec.num_actions))
        losses = learner.step(trajectory)
        report.add(trajectory)
        if learner.updates % settings.updates_per_line == 0:
            report.print(learner, losses)


def make_environments(spec: EnvSpec, settings: Settings) -> MultitaskVectorEnv:
    """B environments behind one `step`. Environment b plays task b mod K in all its episodes."""
    K = len(spec.tasks)
    slots = [Slot(task=b % K, index=b // K) for b in range(settings.batch_size)]
    return make_env(TASKS, spec, slots, settings.seed, Split.TRAIN)


class Inputs(NamedTuple):
    """What the agent sees: [B, ...] at one step, [T+1, B, ...] in a trajectory."""

    vector: Tensor  # [B, V] observation
    last_action: Tensor  # [B, A] one-hot; zeros at the first step of an episode
    last_reward: Tensor  # [B]
    reset: Tensor  # bool [B]: the first step of an episode


class Transition(NamedTuple):
    """What happens between two inputs: [B] at one step, [T, B] in a trajectory."""

    action: Tensor
    behaviour_log_prob: Tensor  # log mu(a|x) of the policy that acted
    reward: Tensor
    terminated: Tensor  # bool: the episode ended, so the value of the next observation does not count
    mask: Tensor  # bool: False where the environment only reset and there was no transition
    success: Tensor  # 1 or 0 where an episode ended, else NaN; for the report only


CoreState = tuple[Tensor, Tensor]
"""Hidden state and cell state of the LSTM, [B, H] each."""


class Trajectory(NamedTuple):
    """One unroll: T transitions between T+1 inputs. The last inputs of an unroll are the first of the next."""

    inputs: Inputs  # [T+1, B, ...]
    transitions: Transition  # [T, B]
    task: Tensor  # [B]
    core_state: CoreState  # of the actor, before the first inputs


class Actor:
    """Plays B environments, unroll after unroll, without a gap between unrolls. It shares the agent with the learner."""

    def __init__(self, env: MultitaskVectorEnv, agent: Agent) -> None:
        self.env, self.agent = env, agent
        B, A = env.num_envs, agent.num_actions
        observation, _ = env.reset()
        # torch.tensor copies: the environment writes its next observation into the same array.
        self.task, vector = torch.tensor(observation["task"]).long(), torch.tensor(observation["vector"])
        self.inputs = Inputs(vector, torch.zeros(B, A), torch.zeros(B), reset=torch.ones(B, dtype=torch.bool))
        self.core_state = (torch.zeros(B, agent.core_size), torch.zeros(B, agent.core_size))
        self.ended = torch.zeros(B, dtype=torch.bool)

    @torch.no_grad()
    def unroll(self, noise: Tensor) -> Trajectory:
        """Plays T steps. The same weights and the same noise [T, B, A] (see `gumbel_noise`) give the same actions."""
        core_state, modulation = self.core_state, self.agent.condition()
        inputs, transitions = [self.inputs], []
        for step_noise in noise:
            one_step = Inputs(*(part.unsqueeze(0) for part in self.inputs))
            log_pi, _, self.core_state = self.agent(one_step, self.task, self.core_state, modulation)
            transitions.append(self._step(log_pi.squeeze(0), step_noise))
            inputs.append(self.inputs)
        return Trajectory(stack(inputs), stack(transitions), self.task, core_state)

    def _step(self, log_pi: Tensor, noise: Tensor) -> Transition:
        """Samples one action per environment from log pi(.|x) [B, A] and takes it. Sets `self.inputs` to the next inputs."""
        action = (log_pi + noise).argmax(dim=1)
        log_prob = log_pi.gather(1, action.unsqueeze(1)).squeeze(1)
        observation, rewards, terminations, truncations, info = self.env.step(action.numpy())
        # The step after an episode's end is no transition: it ignores the action and returns the next episode's first observation.
        resetting, self.ended = self.ended, torch.tensor(terminations | truncations)
        last_action = nn.functional.one_hot(action, self.agent.num_actions) * ~resetting.unsqueeze(1)
        reward, terminated, success = (torch.tensor(array) for array in (rewards, terminations, info["success"]))
        self.inputs = Inputs(torch.tensor(observation["vector"]), last_action.float(), reward, resetting)
        return Transition(action, log_prob, reward, terminated, mask=~resetting, success=success)


def gumbel_noise(T: int, B: int, A: int) -> Tensor:
    """Independent g [T, B, A] from the Gumbel distribution: argmax_a (log pi(a|x) + g_a) is a sample of pi(.|x)."""
    return -torch.empty(T, B, A).exponential_().log()


Step = TypeVar("Step", Inputs, Transition)


def stack(steps: Sequence[Step]) -> Step:
    """Joins steps [B, ...] along a new time axis."""
    return type(steps[0])(*(torch.stack(parts) for parts in zip(*steps, strict=True)))


Modulation = tuple[Tensor, Tensor]
"""W'(z) [K, Y, X] and b'(z) [K, Y] for K contexts z."""


class MultiplicativeInteraction(nn.Module):
    """y = z^T W x + z^T U + V x + b. It is read as y = W'(z) x + b'(z) with W'(z) = z^T W + V and b'(z) = z^T U + b.

    For x and z of variance 1, y starts with variance 1: 1/4 from z^T W x, 1/4 from z^T U and 1/2 from V x.
    """

    def __init__(self, X: int, Z: int, Y: int) -> None:
        super().__init__()
        # Adam changes every number by a step of about the same size. z^T W adds up Z of them, so it would learn faster than V.
        # Therefore W is stored sqrt(Z) times as large as in the equation, and `condition` divides z by sqrt(Z), its usual length.
        self.W = nn.Parameter(torch.randn(Z, Y, X) * math.sqrt(Z) * math.sqrt(1 / 4 / (Z * X)))
        self.U = nn.Parameter(torch.randn(Z, Y) * math.sqrt(1 / 4 / Z))
        self.V = nn.Parameter(torch.randn(Y, X) * math.sqrt(1 / 2 / X))
        self.b = nn.Parameter(torch.zeros(Y))

    def condition(self, z: Tensor) -> Modulation:
        """The part that depends on the context alone, computed once for each of the contexts z [K, Z]."""
        W = torch.einsum("kz,zyx->kyx", z / math.sqrt(z.shape[1]), self.W) + self.V
        return W, z @ self.U + self.b

    def modulate(self, x: Tensor, modulation: Modulation, task: Tensor) -> Tensor:
        """The part that runs at every step: x [T, B, X] -> y [T, B, Y], column b in the context of task[b]."""
        W, b = modulation
        return torch.einsum("byx,tbx->tby", W[task], x) + b[task]


class Agent(nn.Module):
    """One network for acting (T = 1) and learning, and for all tasks."""

    def __init__(self, spec: EnvSpec, settings: Settings) -> None:
        super().__init__()
        self.num_actions, self.core_size = spec.num_actions, settings.core_size
        K, A, V = len(spec.tasks), spec.num_actions, spec.observation["vector"].shape[0]
        X, Y, Z, H = settings.torso_size + A + 1, settings.fusion_size, settings.context_size, settings.core_size
        self.z = nn.Parameter(torch.randn(K, Z))
        self.torso = linear(V, settings.torso_size, gain=math.sqrt(2))
        self.fusion = MultiplicativeInteraction(X, Z, Y)
        self.lstm = nn.LSTMCell(Y, H)
        # A new LSTM has outputs of about 0.1, so the first policy is close to uniform.
        self.policy = linear(H, A, gain=1.0)
        self.value_head = linear(H, K, gain=1.0)

    def condition(self) -> Modulation:
        """The modulations of all K tasks; valid until the weights change."""
        return self.fusion.condition(self.z)

    def forward(
        self, inputs: Inputs, task: Tensor, core_state: CoreState, modulation: Modulation
    ) -> tuple[Tensor, Tensor, CoreState]:
        """Runs T steps: inputs [T, B, ...] -> log pi(.|x_t) [T, B, A], outputs h of the LSTM [T, B, H], its last state."""
        features = torch.relu(self.torso(inputs.vector))
        x = torch.cat([features, inputs.last_action, inputs.last_reward.unsqueeze(2)], dim=2)
        y = self.fusion.modulate(x, modulation, task)
        h, core_state = self._core(y, inputs.reset, core_state)
        return torch.log_softmax(self.policy(h), dim=2), h, core_state

    def _core(self, y: Tensor, reset: Tensor, state: CoreState) -> tuple[Tensor, CoreState]:
        """The LSTM over y [T, B, Y]. Its state is set to zero before the first step of an episode."""
        outputs = []
        for y_t, reset_t in zip(y, reset, strict=True):
            hidden, cell = (torch.where(reset_t.unsqueeze(1), 0.0, part) for part in state)
            state = self.lstm(y_t, (hidden, cell))
            outputs.append(state[0])
        return torch.stack(outputs), state

    def normalized_baseline(self, h: Tensor, task: Tensor) -> Tensor:
        """n(x_t) of each column's own task: h [T, B, H], task [B] -> [T, B]. The value is V = sigma n + mu (PopArt)."""
        return (h * self.value_head.weight[task]).sum(dim=2) + self.value_head.bias[task]


def linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A linear layer whose outputs start with a mean square of gain^2, for inputs with a mean square of 1."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain * math.sqrt(max(1.0, outputs / inputs)))
    nn.init.zeros_(layer.bias)
    return layer


class Learner:
    """Makes one update of the agent from each trajectory."""

    def __init__(self, agent: Agent, settings: Settings) -> None:
        self.agent, self.settings = agent, settings
        self.popart = PopArt(agent.value_head, settings.popart_step_size)
        self.optimizer = torch.optim.Adam(agent.parameters(), eps=settings.epsilon)
        self.updates, self.steps = 0, 0

    def step(self, trajectory: Trajectory) -> dict[str, float]:
        """Updates the agent in place. Returns the terms of the loss."""
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate * max(0.0, 1 - self.steps / s.total_steps)
        terms = self._loss_terms(trajectory)
        loss = terms["policy"] + s.baseline_cost * terms["baseline"] - s.entropy_cost * terms["entropy"]
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.agent.parameters(), s.max_gradient_norm)
        self.optimizer.step()
        self.updates += 1
        self.steps += int(trajectory.transitions.mask.sum())
        return {name: term.item() for name, term in terms.items()}

    def _loss_terms(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """Policy gradient, error of the baseline, and entropy: each is a mean over the real transitions."""
        inputs, transitions, task, core_state = trajectory
        log_pi, h, _ = self.agent(inputs, task, core_state, self.agent.condition())
        log_pi = log_pi[:-1]
        log_probs = log_pi.gather(2, transitions.action.unsqueeze(2)).squeeze(2)
        targets, advantages = self._targets(transitions, task, log_probs, h)
        # After `_targets`, which rescales the value head.
        n = self.agent.normalized_baseline(h[:-1], task)
        terms = {
            "policy": -advantages * log_probs,
            "baseline": 0.5 * (targets - n) ** 2,
            "entropy": -(log_pi.exp() * log_pi).sum(dim=2),
        }
        return {name: term[transitions.mask].mean() for name, term in terms.items()}

    @torch.no_grad()
    def _targets(self, transitions: Transition, task: Tensor, log_probs: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised targets of the baseline and normalised advantages, [T, B]. Updates the moments of PopArt first."""
        s, popart = self.settings, self.popart
        vs, advantages = vtrace(
            log_rhos=log_probs - transitions.behaviour_log_prob,
            discounts=s.discounting * ~transitions.terminated,
            rewards=transitions.reward.clamp(-s.reward_clip, s.reward_clip),
            values=popart.sigma[task] * self.agent.normalized_baseline(h, task) + popart.mu[task],
            mask=transitions.mask,
        )
        popart.update(vs, task, transitions.mask)
        return (vs - popart.mu[task]) / popart.sigma[task], advantages / popart.sigma[task]


def vtrace(log_rhos: Tensor, discounts: Tensor, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """V-trace: values v_s and advantages A_s of the policy pi, from transitions that were played with the policy mu:

        rho_t = c_t = min(1, pi(a_t|x_t) / mu(a_t|x_t)),   delta_t = rho_t (r_t + gamma_t V(x_{t+1}) - V(x_t))
        v_s = V(x_s) + delta_s + gamma_s c_s (v_{s+1} - V(x_{s+1})),   A_s = rho_s (r_s + gamma_s v_{s+1} - V(x_s))

    log_rhos = log pi - log mu, discounts gamma_t (0 where an episode terminated), rewards r_t and mask are [T, B]. Values V(x_t) are
    [T+1, B]. Where mask is False, rho_t is 0: after a truncation, nothing flows back from the next episode. Returns v_s and A_s, [T, B].
    """
    rhos = log_rhos.exp().clamp(max=1.0) * mask
    deltas = rhos * (rewards + discounts * values[1:] - values[:-1])
    # v_s - V(x_s), from the last step to the first. The values bootstrap: v_T = V(x_T).
    error = torch.zeros_like(values[0])
    errors = [error]
    for delta, discount, c in zip(deltas.flip(0), discounts.flip(0), rhos.flip(0), strict=True):
        error = delta + discount * c * error
        errors.append(error)
    vs = values + torch.stack(errors[::-1])
    return vs[:-1], rhos * (rewards + discounts * vs[1:] - values[:-1])


class PopArt:
    """Normalises the targets of the baseline per task: V = sigma n + mu, where n is the output of the value head.

    The vectors mu and nu [K] are running means of the targets and of their squares; sigma^2 = nu - mu^2.
    """

    def __init__(self, value_head: nn.Linear, step_size: float) -> None:
        self.value_head, self.step_size = value_head, step_size
        self.mu, self.nu = torch.zeros(value_head.out_features), torch.ones(value_head.out_features)

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of the targets, [K]."""
        return (self.nu - self.mu**2).clamp(min=1e-8).sqrt()

    @torch.no_grad()
    def update(self, targets: Tensor, task: Tensor, mask: Tensor) -> None:
        """Moves mu and nu towards the means over the targets [T, B]. Rescales the value head so that no V changes."""
        old_mu, old_sigma = self.mu.clone(), self.sigma
        for k in range(len(self.mu)):
            own = targets[mask & (task == k)]
            if len(own):
                self.mu[k] += self.step_size * (own.mean() - self.mu[k])
                self.nu[k] += self.step_size * ((own**2).mean() - self.nu[k])
        weight, bias = self.value_head.weight, self.value_head.bias
        weight.copy_(weight * (old_sigma / self.sigma).unsqueeze(1))
        bias.copy_((old_sigma * bias + old_mu - self.mu) / self.sigma)


class Report:
    """Counts the episodes of each task between two printed lines."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tasks
        self.episodes, self.successes = np.zeros(len(tasks)), np.zeros(len(tasks))

    def add(self, trajectory: Trajectory) -> None:
        """Adds the episodes that ended in this trajectory."""
        success = trajectory.transitions.success.numpy()
        t, b = np.nonzero(~np.isnan(success))
        np.add.at(self.episodes, trajectory.task[b], 1)
        np.add.at(self.successes, trajectory.task[b], success[t, b])

    def print(self, learner: Learner, losses: dict[str, float]) -> None:
        """Prints the losses and the success per task, then sets the counts to zero."""
        success = self.successes / self.episodes
        terms = "  ".join(f"{name} {value:6.3f}" for name, value in losses.items())
        tasks = "  ".join(f"{name} {rate:.2f}" for name, rate in zip(self.tasks, success, strict=True))
        print(f"steps {learner.steps:7,d}  {terms}  success {success.mean():.2f}  {tasks}", flush=True)
        self.episodes[:] = self.successes[:] = 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="IMPALA with a multiplicative interaction, in one file.")
    for field in dataclasses.fields(Settings):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    torch.set_num_threads(1)  # more threads cost more than they save in matrices of this size
    train(Settings(**vars(parser.parse_args())))
