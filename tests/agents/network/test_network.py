"""The whole agent: single acting steps equal an unroll in the learner, for every fusion, site, context and core."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network
from pairwise import accepted_context, pairwise
from torch import Tensor

from agents.acting.policy import context_rows
from agents.fusion import FLAT_SITES, FUSIONS
from agents.fusion.segments import Segments
from agents.fusion.spatial import SPATIAL_FUSIONS
from agents.network.agent import AgentNetwork, AgentOutput
from agents.network.context import distinct_contexts
from agents.network.core import CORES
from agents.network.heads import ActionMask, HistogramHead, ValueHead
from agents.network.initialization import FIRST_LOGITS
from agents.setup.builder import build_network
from agents.trajectory import OBSERVED, Trajectory
from conf.names import CONTEXTS

T, B = 7, 4
ENV = fake_env()


def observed(batch: Trajectory) -> dict[str, Tensor]:
    return {key: value for key, value in batch.items() if key in OBSERVED}


def unroll(network: AgentNetwork, inputs: dict[str, Tensor], core_state: Tensor) -> AgentOutput:
    """Like the learner: all contexts of the unroll at once."""
    distinct, index = distinct_contexts(context_rows(network, inputs))
    contexts = network.context_encoder.contexts_from_rows(distinct)
    segments = Segments(torch.from_numpy(index), len(contexts.task))
    return network.unroll(inputs, core_state, network.condition(contexts), segments)


@torch.no_grad()
def step_by_step(network: AgentNetwork, inputs: dict[str, Tensor], core_state: Tensor) -> AgentOutput:
    """One call of length 1 per step, each conditioned on the contexts of its step."""
    outputs = []
    for t in range(len(inputs["reset"])):
        outputs.append(unroll(network, {key: value[t : t + 1] for key, value in inputs.items()}, core_state))
        core_state = outputs[-1].core_state
    logits, values = (torch.cat([output[part] for output in outputs]) for part in range(2))
    return AgentOutput(logits, values, core_state)


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_steps_equal_an_unroll(fusion: str) -> None:
    """Every pair of fusion, context and sites occurs, of those that a form accepts."""
    form = FUSIONS[fusion]
    at_site = [(False, True)] * len(FLAT_SITES)
    for number, (name, context, *chosen) in enumerate(pairwise(sorted(FUSIONS), CONTEXTS, *at_site)):
        if name == fusion:
            sites = tuple(itertools.compress(FLAT_SITES, chosen))
            accepted = accepted_context(form, context)
            network = fake_network(ENV, fake_config(fusion=fusion, context=accepted, sites=sites), seed=number)
            batch = fake_batch(ENV, network.core_state_size, T, B, seed=number)
            inputs, state = observed(batch), batch["core_state"]
            whole, steps = unroll(network, inputs, state), step_by_step(network, inputs, state)
            torch.testing.assert_close(tuple(whole), tuple(steps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spatial", sorted(SPATIAL_FUSIONS))
@pytest.mark.parametrize("image", [((7, 7, 2), "symbolic"), ((24, 20, 3), "pixels")])
def test_steps_equal_an_unroll_with_a_fusion_on_the_map(spatial: str, image: tuple[tuple[int, ...], str]) -> None:
    env = fake_env(image=image[0], kind=image[1])
    network = fake_network(env, fake_config(spatial=spatial, sites=("torso", "core_input")))
    batch = fake_batch(env, network.core_state_size, T, B)
    # Two columns have equal images, so that copies in the grid torso meet different contexts.
    batch["image"][:, 1] = batch["image"][:, 0]
    whole = unroll(network, observed(batch), batch["core_state"])
    steps = step_by_step(network, observed(batch), batch["core_state"])
    torch.testing.assert_close(tuple(whole), tuple(steps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spatial", sorted(SPATIAL_FUSIONS))
def test_a_fusion_on_the_map_depends_on_the_context(spatial: str) -> None:
    env = fake_env(image=(7, 7, 2), kind="symbolic")
    network = fake_network(env, fake_config(spatial=spatial, sites=("torso",), context="instruction"), seed=2)
    batch = fake_batch(env, network.core_state_size, T, 40)
    before = unroll(network, observed(batch), batch["core_state"])
    batch["instruction"][3, :20, 0] = 1 + (batch["instruction"][3, :20, 0] == 1)
    after = unroll(network, observed(batch), batch["core_state"])
    # A ReLU may be dead for some of them.
    assert (before.policy_logits[3, :20] != after.policy_logits[3, :20]).any(dim=1).sum() > 5
    assert torch.equal(before.policy_logits[:3], after.policy_logits[:3])
    torch.testing.assert_close(before.policy_logits[3, 20:], after.policy_logits[3, 20:])


@pytest.mark.parametrize("core", sorted(CORES))
@pytest.mark.parametrize("encoding", ["embedding", "one_hot"])
def test_steps_equal_an_unroll_for_every_core(core: str, encoding: str) -> None:
    network = fake_network(ENV, fake_config(core=core, task_encoding=encoding))
    batch = fake_batch(ENV, network.core_state_size, T, B)
    whole = unroll(network, observed(batch), batch["core_state"])
    steps = step_by_step(network, observed(batch), batch["core_state"])
    torch.testing.assert_close(tuple(whole), tuple(steps), rtol=1e-4, atol=1e-5)


def test_batches_hold_resets_and_several_contexts() -> None:
    batch = fake_batch(ENV, 10, T, B)
    assert batch["reset"][1:-1].any() and (batch["terminated"] | ~batch["mask"]).any()
    words = batch["instruction"]
    changed = (words[1:] != words[:-1]).any(dim=-1)
    assert (changed & ~batch["reset"][1:]).any(), "no instruction changes inside an episode"


@pytest.mark.parametrize("site", FLAT_SITES)
@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_each_site_depends_on_the_context(fusion: str, site: str) -> None:
    network = fake_network(ENV, fake_config(fusion=fusion, sites=(site,)))
    batch = fake_batch(ENV, network.core_state_size, T, B)
    before = unroll(network, observed(batch), batch["core_state"])
    batch["instruction"][3, 0, 0] = 1 + (batch["instruction"][3, 0, 0] == 1)
    after = unroll(network, observed(batch), batch["core_state"])
    heard = {
        "policy_logits": (before.policy_logits[3, 0] != after.policy_logits[3, 0]).any(),
        "value_features": (before.value_features[3, 0] != after.value_features[3, 0]).any(),
    }
    assert heard["policy_logits"] == (site in ("core_input", "policy"))
    assert heard["value_features"] == (site in ("core_input", "value"))


def test_without_sites_the_context_has_no_effect() -> None:
    network = fake_network(ENV, fake_config(sites=()))
    batch = fake_batch(ENV, network.core_state_size, T, B)
    before = unroll(network, observed(batch), batch["core_state"])
    batch["instruction"][:] = 2
    after = unroll(network, observed(batch), batch["core_state"])
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_past_matters_within_an_episode_only() -> None:
    network = fake_network(ENV, fake_config())
    batch = fake_batch(ENV, network.core_state_size, T, B)
    batch["reset"][:] = False
    batch["reset"][4, 0] = True
    before = unroll(network, observed(batch), batch["core_state"])
    batch["vector"][1, :2] += 1
    batch["core_state"][2] += 1
    after = unroll(network, observed(batch), batch["core_state"])
    changed = (before.policy_logits != after.policy_logits).any(dim=-1)
    assert changed[:, 0].tolist() == [False, True, True, True, False, False, False, False]
    assert changed[:, 1].tolist() == [False] + [True] * 7
    assert changed[:, 2].all(), "the core state before the unroll is not used"
    assert not changed[:, 3].any(), "columns mix"
    assert torch.equal(before.core_state[0], after.core_state[0])
    assert not torch.equal(before.core_state[1], after.core_state[1])


def test_core_reads_torso_last_action_and_clipped_last_reward() -> None:
    network = fake_network(ENV, fake_config(sites=()))
    batch = fake_batch(ENV, network.core_state_size, 4, 2)
    batch["last_action"][:, 0] = torch.tensor([0, 3, ENV.num_actions, 1, 2])
    batch["last_reward"][:, 0] = torch.tensor([0.0, 0.5, -7.0, 3.0, -0.25])
    seen: list[Tensor] = []
    network.core.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    unroll(network, observed(batch), batch["core_state"])
    features = network.torso({"vector": batch["vector"].flatten(0, 1)}).view(5, 2, -1)
    (x,) = seen
    size = features.shape[-1]
    torch.testing.assert_close(x[..., :size], features)
    assert x[:, 0, size:-1].tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert x[:, 0, -1].tolist() == [0, 0.5, -1, 1, -0.25]


def test_actions_that_a_task_lacks_are_removed() -> None:
    network = fake_network(ENV, fake_config())
    batch = fake_batch(ENV, network.core_state_size, T, B)
    batch["task"][:] = torch.tensor([0, 1, 2, 1])
    probabilities = unroll(network, observed(batch), batch["core_state"]).policy_logits.softmax(dim=-1)
    assert not probabilities[:, [1, 3], 3].any()
    assert (probabilities[:, [0, 2]] > 0).all() and (probabilities[:, [1, 3], :3] > 0).all()


VALUES: list[dict[str, object]] = [
    {},
    {"critic_width": 0.5, "actor_width": 0.5},
    {"value_loss": "hl_gauss", "critic_width": 2.0},
]


@pytest.mark.parametrize(
    ("core", "values"), [*((core, {}) for core in sorted(CORES)), *(("lstm", options) for options in VALUES[1:])]
)
@pytest.mark.parametrize("sites", [("core_input", "policy", "value"), ("core_input",)])
def test_every_parameter_learns(core: str, values: dict[str, object], sites: tuple[str, ...]) -> None:
    network = fake_network(ENV, fake_config(core=core, sites=sites, **values))  # type: ignore[arg-type]
    batch = fake_batch(ENV, network.core_state_size, T, 16)
    output = unroll(network, observed(batch), batch["core_state"])
    outputs = network.value_head(output.value_features, batch["task"])
    (output.policy_logits.softmax(dim=-1)[..., 0].sum() + outputs.sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_value_head_returns_the_output_of_each_samples_task() -> None:
    head = ValueHead(3, 4)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([1.0, 2, 3, 4]))
    features, task = torch.randn(2, 5, 3), torch.tensor([[0, 1, 2, 3, 0], [3, 3, 1, 0, 2]], dtype=torch.int32)
    values = head(features, task)
    for t, b in np.ndindex(2, 5):
        number = int(task[t, b])
        torch.testing.assert_close(values[t, b], features[t, b] @ head.weight[number] + number + 1)
    shared = ValueHead(3, 1)
    torch.testing.assert_close(shared(features, task), (features @ shared.weight[0]) + shared.bias[0])


@pytest.mark.parametrize("sites", [("core_input", "policy", "value"), ("core_input",)])
def test_a_critic_layer_scales_the_value_alone(sites: tuple[str, ...]) -> None:
    """The policy is equal bit for bit. The layer is counted, and a fusion at `value` is the layer."""
    networks = []
    for width in (0.0, 3.0):
        config = fake_config(fusion="concat", sites=sites, critic_width=width)
        torch.manual_seed(0)
        networks.append(build_network(config, ENV))
    plain, wide = networks
    batch = fake_batch(ENV, plain.core_state_size, T, B)
    outputs = [unroll(network, observed(batch), batch["core_state"]) for network in networks]
    assert torch.equal(outputs[0].policy_logits, outputs[1].policy_logits)
    hidden, core, context = 3 * 5, 5, plain.context_encoder.size
    assert outputs[1].value_features.shape == (T + 1, B, hidden) and (outputs[1].value_features >= 0).all()
    tasks, fused = len(ENV.tasks), "value" in sites
    inputs = core + context + 1 if fused else core + 1
    expected = hidden * inputs + tasks * (hidden + 1) - (inputs + 2 * tasks if fused else tasks * (core + 1))
    assert wide.num_parameters - plain.num_parameters == expected


@pytest.mark.parametrize("sites", [("core_input", "policy", "value"), ("core_input",)])
def test_an_actor_layer_scales_the_policy_alone(sites: tuple[str, ...]) -> None:
    """With equal weights elsewhere, the values are equal bit for bit. The layer is counted, and a fusion at `policy` is the layer."""
    configs = [fake_config(fusion="concat", sites=sites, actor_width=width) for width in (0.0, 3.0)]
    plain, wide = (fake_network(ENV, config) for config in configs)
    of_policy = ("policy.", "actor.", "fusions.policy.")
    shared = {name: part for name, part in plain.state_dict().items() if not name.startswith(of_policy)}
    assert not wide.load_state_dict(shared, strict=False).unexpected_keys
    batch = fake_batch(ENV, plain.core_state_size, T, B)
    outputs = [unroll(network, observed(batch), batch["core_state"]) for network in (plain, wide)]
    assert torch.equal(outputs[0].value_features, outputs[1].value_features)
    assert not torch.equal(outputs[0].policy_logits, outputs[1].policy_logits)
    assert outputs[0].policy_logits.shape == outputs[1].policy_logits.shape
    hidden, core, context, actions = 3 * 5, 5, plain.context_encoder.size, ENV.num_actions
    inputs = core + 1 + (context if "policy" in sites else 0)
    expected = hidden * inputs + actions * (hidden + 1) - actions * inputs
    assert wide.num_parameters - plain.num_parameters == expected


@pytest.mark.parametrize("sites", [("core_input", "policy"), ("core_input",)])
@pytest.mark.parametrize("fusion", ["concat", "film", "mi"])
def test_the_first_policy_behind_an_actor_layer_is_close_to_uniform(fusion: str, sites: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    network = build_network(fake_config(fusion=fusion, sites=sites, actor_width=20.0), ENV)
    batch = fake_batch(ENV, network.core_state_size, T, 16)
    logits = unroll(network, observed(batch), batch["core_state"]).policy_logits
    size = logits[logits > -1e8].square().mean().sqrt()
    # A fusion at the policy adds its term of the context alone.
    assert FIRST_LOGITS / 3 < size < 5 * FIRST_LOGITS


def test_a_histogram_head_reads_the_bins_of_each_samples_task() -> None:
    head = HistogramHead(3, 4, bins=5, bound=2.0)
    with torch.no_grad():
        head.bias.normal_()
        head.scale.copy_(torch.tensor([[1.0], [2], [3], [4]]))
        head.shift.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    features, task = torch.randn(2, 5, 3), torch.tensor([[0, 1, 2, 3, 0], [3, 3, 1, 0, 2]], dtype=torch.int32)
    values = head(features, task)
    for t, b in np.ndindex(2, 5):
        number = int(task[t, b])
        p = (head.weight[number] @ features[t, b] + head.bias[number]).softmax(dim=0)
        mean = p @ torch.tensor([-1.6, -0.8, 0, 0.8, 1.6])
        torch.testing.assert_close(values[t, b], (number + 1) * mean + 0.1 * (number + 1))


def test_action_mask_is_free_when_all_tasks_have_all_actions() -> None:
    logits = torch.randn(3, 4)
    assert ActionMask((4, 4), 4)(logits, torch.zeros(3)) is logits


def test_apply_visits_every_module_of_the_network() -> None:
    """`nn.Module.apply`, for a user's initialisation: no fusion shadows it."""
    network = fake_network(ENV, fake_config(fusion="mi"))

    def set_biases(module: torch.nn.Module) -> None:
        if isinstance(getattr(module, "b", None), torch.nn.Parameter):
            torch.nn.init.constant_(module.b, 0.5)  # type: ignore[arg-type]

    assert network.apply(set_biases) is network
    for fusion in network.fusions.values():
        assert torch.equal(fusion.b, torch.full_like(fusion.b, 0.5))  # type: ignore[arg-type, operator]
