"""Differences between played observations survive each layer of a new agent."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from pairwise import accepted_context, pairwise
from torch import Tensor, nn

from agents.acting.policy import Policy
from agents.fusion import FUSIONS
from agents.fusion.spatial import SPATIAL_FUSIONS
from agents.network.actions import action_distribution
from agents.network.agent import AgentNetwork
from agents.network.core import CORES
from agents.network.initialization import initialize, keep_variance
from agents.setup.builder import build_network
from conf.loading import compose_train
from conf.names import INITIALIZATIONS
from conf.schema import TrainConfig
from envs.spec import EnvSpec, Slot, Split
from envs.suites import make_env, make_spec

DTYPES = (None, torch.bfloat16)

SUITES = {
    "grid, default suite": ["env=babyai"],
    "grid, MemoryS7": ["env.tasks=[MiniGrid-MemoryS7-v0]"],
    "grid, conditional": ["env=conditional", "env.observation=image"],
    "shallow, Breakout": ["env=atari", "env.tasks=[Breakout]", "torso=shallow"],
    "deep, Breakout": ["env=atari", "env.tasks=[Breakout]", "torso=deep"],
    "impoola, Breakout": ["env=atari", "env.tasks=[Breakout]", "torso=impoola"],
    "shallow, ViZDoom": ["env=vizdoom", "env.tasks=[basic]", "torso=shallow"],
    "deep, ViZDoom": ["env=vizdoom", "env.tasks=[basic]", "torso=deep"],
    "impoola, ViZDoom": ["env=vizdoom", "env.tasks=[basic]", "torso=impoola"],
    "shallow, DMLab2D": ["env=dmlab2d", "env.tasks=[commons_harvest]", "torso=shallow"],
    "mlp, CartPole": ["env=gymnasium", "env.tasks=[CartPole-v1]"],
    "mlp, Acrobot": ["env=gymnasium", "env.tasks=[Acrobot-v1]"],
    "mlp, conditional": ["env=conditional"],
}
LEAST_DEVIATIONS = {"grid, default suite": 0.1, "impoola, Breakout": 0.003}
"""Behind the torso, where it is not 0.01. The mean over a map divides the few cells in which two frames of Breakout differ by all cells."""
BEHIND_THE_TORSO = tuple(
    suite for suite in SUITES if suite not in ("deep, ViZDoom", "impoola, ViZDoom", "impoola, Breakout")
)
"""Suites for the tests of core and fusion. The features of the other three have the sizes and deviations that the torso's test demands."""
WITH_A_MAP = ("grid, default suite", "shallow, Breakout", "deep, Breakout")


class Played(NamedTuple):
    """Observations of random play as an agent's inputs at the first step of an episode, each [N, ...]: 240, or 80 large pictures."""

    config: TrainConfig
    env: EnvSpec
    inputs: dict[str, Tensor]


@functools.cache
def played(suite: str) -> Played:
    config = compose_train(SUITES[suite])
    env = make_spec(config.env)
    # A game of ViZDoom is a process, which takes longer to start than to play.
    count = 4 if config.env.name == "vizdoom" else 16
    slots = [Slot(task=number % len(env.tasks), index=number) for number in range(count)]
    counts = np.array([env.action_counts[slot.task] for slot in slots])
    vector_env = make_env(config.env, env, slots, 0, Split.TRAIN)
    rng, kept = np.random.default_rng(0), []
    vector_env.reset()
    # A deep torso takes a second for 240 pictures.
    between = 12 if config.torso.name in ("deep", "impoola") else 4
    for step in range(960 // count):
        observation, *_ = vector_env.step(rng.integers(counts).astype(np.int32))
        if step % between == between - 1:
            kept.append({key: np.array(value) for key, value in observation.items()})
    vector_env.close()
    inputs = {key: torch.from_numpy(np.concatenate([row[key] for row in kept])) for key in kept[0]}
    samples = len(inputs["task"])
    inputs |= {
        "task": inputs["task"].int(),
        "reset": torch.ones(samples, dtype=torch.bool),
        "last_action": action_distribution(env).no_action(samples),
        "last_reward": torch.zeros(samples),
    }
    return Played(config, env, inputs)


def outputs(network: AgentNetwork, inputs: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Outputs of torso and core, and the policy's parameters, computed by an actor in that precision."""
    policy = Policy(network, len(inputs["reset"]), autocast=dtype)
    found: dict[str, Tensor] = {}
    for name in ("torso", "core"):
        module = getattr(policy._acting, name)
        module.register_forward_hook(
            lambda module, given, result, name=name: found.update({name: result[0][0] if name == "core" else result})
        )
    found["policy"] = policy.distribution(inputs)
    return {name: result.float() for name, result in found.items()}


def deviation(features: Tensor) -> float:
    """Standard deviation over observations, averaged over features: [N, F]."""
    return float(features.std(dim=0).mean())


def root_mean_square(features: Tensor) -> float:
    return float(features.square().mean().sqrt())


def network_of(suite: str, *, seed: int = 0, **options: str) -> AgentNetwork:
    config, env, _ = played(suite)
    overrides = [f"{key}={value}" for key, value in options.items()]
    torch.manual_seed(seed)
    return build_network(compose_train([*SUITES[suite], *overrides]) if overrides else config, env)


QUICK = ("grid, default suite", "mlp, CartPole", "grid, conditional")
TIERED = [pytest.param(suite, marks=() if suite in QUICK else pytest.mark.slow) for suite in SUITES]


@pytest.mark.parametrize("suite", TIERED)
def test_observations_differ_behind_the_torso(suite: str) -> None:
    for name, seed, dtype in pairwise(SUITES, range(3), DTYPES):
        if name == suite:
            features = outputs(network_of(suite, seed=seed), played(suite).inputs, dtype)["torso"]
            assert deviation(features) >= LEAST_DEVIATIONS.get(suite, 0.01), (seed, dtype)
            assert 0.1 <= root_mean_square(features) <= 2, (seed, dtype)


@pytest.mark.parametrize(
    "suite",
    [pytest.param(suite, marks=() if suite == "grid, conditional" else pytest.mark.slow) for suite in BEHIND_THE_TORSO],
)
def test_observations_differ_behind_every_core_and_fusion(suite: str) -> None:
    """Every pair of suite, fusion, core and precision occurs. The torso's output is computed once per precision."""
    config, env, inputs = played(suite)
    torch.manual_seed(0)
    torso = build_network(config, env).torso
    for name, fusion, core, dtype in pairwise(BEHIND_THE_TORSO, FUSIONS, CORES, DTYPES):
        if name == suite:
            context = accepted_context(FUSIONS[fusion], config.context.name)
            network = network_of(suite, fusion=fusion, core=core, context=context)
            network.torso = Remembered(torso, (suite, dtype))
            found = outputs(network, inputs, dtype)
            least = min(0.002, LEAST_DEVIATIONS.get(suite, 0.01) / 10)
            assert deviation(found["core"]) >= least, (fusion, core, dtype)
            assert deviation(found["policy"]) > 0, (fusion, core, dtype)


class Remembered(nn.Module):
    """A torso's features of the observations of a suite, computed once for each `key`."""

    results: dict[object, Tensor] = {}  # noqa: RUF012 - shared on purpose

    def __init__(self, torso: nn.Module, key: object) -> None:
        super().__init__()
        self.torso, self.key = torso, key

    def forward(self, observation: dict[str, Tensor], fuse: object = None) -> Tensor:
        if self.key not in self.results:
            self.results[self.key] = self.torso(observation, fuse)
        return self.results[self.key]


@pytest.mark.parametrize("form", SPATIAL_FUSIONS)
@pytest.mark.parametrize(
    "suite", [pytest.param(suite, marks=() if suite in QUICK else pytest.mark.slow) for suite in WITH_A_MAP]
)
def test_observations_differ_behind_every_form_on_the_feature_map(suite: str, form: str) -> None:
    network = network_of(suite, fusion=form, **{"fusion.spatial": form, "fusion.sites": "[torso]"})
    for dtype in DTYPES:
        found = outputs(network, played(suite).inputs, dtype)
        assert deviation(found["torso"]) >= 0.01, dtype
        assert 0.1 <= root_mean_square(found["torso"]) <= 2, dtype
        assert deviation(found["core"]) >= 0.002, dtype


@pytest.mark.parametrize("context", ["task", "instruction", "both"])
def test_contexts_differ_behind_their_encoder(context: str) -> None:
    """About 30 contexts of the default suite."""
    _, _, inputs = played("grid, default suite")
    encoder = network_of("grid, default suite", context=context).context_encoder
    rows = np.unique(encoder.context_rows(inputs["task"].numpy(), inputs["instruction"].numpy()), axis=0)
    z = encoder(encoder.contexts_from_rows(rows))[: len(rows)].detach()
    assert deviation(z) >= 0.3
    assert 0.5 <= root_mean_square(z) <= 2


@pytest.mark.parametrize("suite", TIERED)
def test_the_first_policy_is_close_to_uniform(suite: str) -> None:
    """The entropy is within 0.05 nats of the maximum, and the policy still depends on the observation."""
    network, (_, env, inputs) = network_of(suite), played(suite)
    parameters = outputs(network, inputs, None)["policy"]
    entropy = network.actions.entropy(parameters)
    if env.action_kind == "discrete":
        largest = torch.tensor([math.log(env.action_counts[task]) for task in inputs["task"]])
        assert (largest - entropy).max() < 0.05
    assert deviation(parameters) > 1e-5


@pytest.mark.parametrize(("rows", "columns"), [(3, 200), (64, 64), (200, 3)])
def test_outputs_have_the_variance_of_the_inputs(rows: int, columns: int) -> None:
    """Also with more outputs than inputs, for which torch's orthogonal weights are too small."""
    torch.manual_seed(0)
    x = torch.randn(5000, columns)
    layer = nn.Linear(columns, rows)
    keep_variance(layer, 1.5)
    with torch.no_grad():
        y = layer(x)
    assert root_mean_square(y) == pytest.approx(1.5, rel=0.05)
    lengths = layer.weight.norm(dim=1)
    if rows <= columns:
        torch.testing.assert_close(layer.weight @ layer.weight.t(), 2.25 * torch.eye(rows))
    assert float(lengths.square().mean().detach()) == pytest.approx(2.25, rel=1e-4)
    assert not layer.bias.any()


def test_sonnet_weights_equal_the_released_code() -> None:
    """Truncated normal of deviation 1 / sqrt(X) and Glorot's uniform, by their moments and bounds."""
    torch.manual_seed(0)
    layers = nn.ModuleDict(
        {"linear": nn.Linear(300, 400), "conv": nn.Conv2d(30, 40, 3), "words": nn.Embedding(400, 50, padding_idx=0)}
    )
    layers["lstm"] = nn.LSTM(200, 100)
    initialize(layers, "sonnet")
    for weight, inputs in (
        (layers["linear"].weight, 300),
        (layers["conv"].weight, 270),
        (layers["words"].weight[1:], 400),
    ):
        # The standard deviation of a standard normal variable truncated at -2 and 2.
        assert float(weight.detach().std()) == pytest.approx(0.8796 / math.sqrt(inputs), rel=0.02)
        assert float(weight.abs().max()) <= 2 / math.sqrt(inputs)
    assert not layers["linear"].bias.any() and not layers["conv"].bias.any() and not layers["words"].weight[0].any()
    weight_x, weight_h, bias_x, bias_h = layers["lstm"].all_weights[0]
    bound = math.sqrt(6 / (300 + 400))
    for weight in (weight_x, weight_h):
        assert float(weight.abs().max()) == pytest.approx(bound, rel=0.01)
        assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert (bias_x + bias_h).tolist() == [0.0] * 100 + [1.0] * 100 + [0.0] * 200


def test_initializations_differ() -> None:
    firsts = []
    for name in INITIALIZATIONS:
        network = network_of("mlp, conditional", initialization=name)
        firsts.append(next(network.torso.parameters()).flatten()[:4].tolist())
    assert len({tuple(first) for first in firsts}) == len(INITIALIZATIONS)


def test_published_presets_use_sonnet_weights() -> None:
    for preset in (
        "impala",
        "atari57_impala",
        "atari57_popart",
        "atari57_mi",
        "dmlab30_impala",
        "dmlab30_mi",
        "dmlab30_popart",
    ):
        assert compose_train([f"experiment={preset}"]).initialization == "sonnet"
    assert compose_train([]).initialization == "scaled"
