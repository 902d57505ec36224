"""Learning and acting on a GPU: a pretended one (pretended_gpu.py), and a real one if the machine has it."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network
from gpu_agents import AGENTS, SLOTS, B, T, assert_equal_parameters, two_learners
from pretended_gpu import GPU, MixedDevicesError, OnGPU, PretendedGPU, host
from processors import needs_bf16_lstm
from torch import Tensor

from agents.acting import cuda_graphs
from agents.acting.policy import ALL_SLOTS, Policy
from agents.fusion.device_transfer import send_one
from agents.fusion.segments import Segments
from agents.network.agent import AgentNetwork
from agents.runtime.processes.buffers import SharedWeights
from agents.trajectory import OBSERVED
from envs.spec import EnvSpec

# The pretended GPU


def test_the_pretended_gpu_refuses_what_a_real_one_refuses(gpu: PretendedGPU) -> None:
    there = torch.ones(3, device=GPU)
    with pytest.raises(MixedDevicesError):
        there + torch.ones(3)
    with pytest.raises(RuntimeError):
        there.numpy()
    # Scalars may be on either device.
    assert isinstance(there + torch.tensor(1.0), OnGPU)
    assert gpu.waits == []
    assert bool(there.any()) and there.cpu().tolist() == [1, 1, 1]
    assert gpu.waits == ["aten._local_scalar_dense", "aten._to_copy"]


EVERY_AGENT = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if number % 4 else ()) for number, name in enumerate(AGENTS)]
)
"""A quarter of the agents in the quick tier: all of them take a minute."""

# The learner


@EVERY_AGENT
def test_an_update_on_a_gpu_equals_one_on_the_processor_and_waits_once(gpu: PretendedGPU, name: str) -> None:
    env, config = AGENTS[name]
    on_cpu, on_gpu = two_learners(env, config)
    batch = fake_batch(env, on_cpu.network.core_state_size, T, B)
    expected, metrics = on_cpu.step(batch), on_gpu.step(batch)
    assert gpu.waits == ["tolist"]
    for key, value in expected.items():
        torch.testing.assert_close(host(metrics[key]), value, rtol=1e-3, atol=1e-4)
    assert_equal_parameters(on_cpu, on_gpu)
    torch.testing.assert_close(host(on_gpu.objective.popart.mu), on_cpu.objective.popart.mu, rtol=1e-3, atol=1e-5)


@needs_bf16_lstm
@pytest.mark.parametrize("name", ["fusion-mi", "map-dynamic_conv", "core-mogrifier"])
def test_an_update_in_low_precision_stays_on_the_gpu(gpu: PretendedGPU, name: str) -> None:
    env, config = AGENTS[name]
    config = copy.deepcopy(config)
    config.precision = "bf16"
    on_cpu, on_gpu = two_learners(env, config)
    assert on_gpu.objective.autocast == torch.bfloat16
    batch = fake_batch(env, on_gpu.network.core_state_size, T, B)
    expected, metrics = on_cpu.step(batch), on_gpu.step(batch)
    assert gpu.waits == ["tolist"]
    torch.testing.assert_close(host(metrics["loss/total"]), expected["loss/total"], rtol=0.1, atol=0.05)


def test_a_refused_update_changes_nothing_on_the_gpu(gpu: PretendedGPU) -> None:
    env, config = AGENTS["fusion-gated"]
    _, learner = two_learners(env, config)
    before = copy.deepcopy(host({name: weight.detach() for name, weight in learner.network.named_parameters()}))
    batch = fake_batch(env, learner.network.core_state_size, T, B)
    learner.step(batch | {"reward": torch.full_like(batch["reward"], torch.nan)})
    assert learner.counters.refused == 1 and learner.counters.updates == 0
    for name, weight in learner.network.named_parameters():
        assert torch.equal(host(weight.detach()), before[name])
    learner.step(batch)
    assert learner.counters.updates == 1
    learner.check_finite()


def test_gradients_are_clipped_on_a_gpu_as_on_the_processor(gpu: PretendedGPU) -> None:
    env, config = fake_env(), fake_config(max_gradient_norm=1e-3, optimizer="rmsprop")
    on_cpu, on_gpu = two_learners(env, config)
    batch = fake_batch(env, on_cpu.network.core_state_size, T, B)
    assert float(on_cpu.step(batch)["loss/gradient_norm"]) > 1e-3
    on_gpu.step(batch)
    assert gpu.waits == ["tolist"]
    assert_equal_parameters(on_cpu, on_gpu, rtol=1e-4, atol=1e-6)


# The pretended GPU uses the meta device.
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
def test_a_state_moves_from_the_gpu_to_the_processor_and_back(gpu: PretendedGPU) -> None:
    on_cpu, on_gpu = two_learners(*AGENTS["fusion-mi"])
    batch = fake_batch(AGENTS["fusion-mi"][0], on_cpu.network.core_state_size, T, B)
    on_gpu.step(batch)
    on_cpu.load_state_dict(host(on_gpu.state_dict()))
    assert on_cpu.counters == on_gpu.counters
    _, again = two_learners(*AGENTS["fusion-mi"])
    again.load_state_dict(on_cpu.state_dict())
    for learner in (on_cpu, on_gpu, again):
        learner.step(batch)
    assert_equal_parameters(on_cpu, on_gpu)
    assert_equal_parameters(on_cpu, again)


# Acting


def steps(env: EnvSpec, network: AgentNetwork, count: int) -> list[dict[str, Tensor]]:
    batch = fake_batch(env, network.core_state_size, max(count - 1, 1), SLOTS)
    return [{key: value[t] for key, value in batch.items() if key in OBSERVED} for t in range(count)]


def assert_acts_alike(on_cpu: Policy, on_gpu: Policy, inputs: dict[str, Tensor]) -> None:
    """Compares more steps than precede a capture."""
    for _ in range(cuda_graphs._SEEN_BEFORE + 3):
        torch.testing.assert_close(on_gpu.distribution(inputs), on_cpu.distribution(inputs), rtol=1e-3, atol=1e-4)


@EVERY_AGENT
def test_acting_on_a_gpu_equals_the_processor_and_waits_for_the_result_only(
    gpu: PretendedGPU, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without and with captured graphs; contexts change, and one step has some of the slots only."""
    monkeypatch.setattr(cuda_graphs, "_SEEN_BEFORE", 0)
    env, config = AGENTS[name]
    network = fake_network(env, config)
    on_cpu = Policy(copy.deepcopy(network), SLOTS)
    on_gpu = [Policy(copy.deepcopy(network).to(GPU), SLOTS, graphs=graphs) for graphs in (False, True)]
    some = torch.tensor([0, 3]).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, inputs in enumerate(steps(env, network, 5)):
            slots = some if number == 2 else ALL_SLOTS
            present = {key: value[slots] for key, value in inputs.items()}
            expected = on_cpu.distribution(present, slots)
            for policy in on_gpu:
                gpu.waits.clear()
                captured = len(gpu.graphs)
                found = policy.distribution(present, slots)
                # The check of a new graph waits more often.
                assert len(gpu.graphs) > captured or gpu.waits == ["aten._to_copy"]
                assert not isinstance(found, OnGPU)
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
                torch.testing.assert_close(host(policy.core_state), on_cpu.core_state, rtol=1e-3, atol=1e-4)
    assert gpu.graphs


def test_new_weights_reach_a_captured_step(gpu: PretendedGPU) -> None:
    env, config = AGENTS["fusion-mi"]
    network = fake_network(env, config)
    on_cpu = Policy(copy.deepcopy(network), SLOTS)
    on_gpu = Policy(network.to(GPU), SLOTS, graphs=True)
    inputs = steps(env, network, 1)[0]
    for _ in range(2):
        assert_acts_alike(on_cpu, on_gpu, inputs)
        with torch.no_grad():
            for policy in (on_cpu, on_gpu):
                for parameter in policy.network.parameters():
                    parameter.mul_(0.5)
                policy.weights_changed()
    assert [graph.replays > 2 for graph in gpu.graphs] == [True]


def test_a_step_that_cannot_be_captured_runs_without_a_graph_after_one_warning(
    gpu: PretendedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without gathered copies the segments read indices from the device, which cannot be captured.
    monkeypatch.setattr("agents.fusion.segments._MOST_GATHERED", 0)
    env, config = AGENTS["fusion-mi"]
    network = fake_network(env, config)
    on_cpu, on_gpu = Policy(copy.deepcopy(network), SLOTS), Policy(network.to(GPU), SLOTS, graphs=True)
    inputs = steps(env, network, 1)[0]
    with pytest.warns(UserWarning, match=r"CUDA graphs.*capturing.*runtime.cuda_graphs=false") as warned:
        assert_acts_alike(on_cpu, on_gpu, inputs)
    assert len(warned) == 1 and not gpu.graphs


def test_a_graph_with_wrong_results_is_not_used(gpu: PretendedGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: graph.calls[-1][-1].add_(1.0))
    env, config = AGENTS["fusion-film"]
    network = fake_network(env, config)
    on_cpu, on_gpu = Policy(copy.deepcopy(network), SLOTS), Policy(network.to(GPU), SLOTS, graphs=True)
    inputs = steps(env, network, 1)[0]
    with pytest.warns(UserWarning, match="other results"):
        assert_acts_alike(on_cpu, on_gpu, inputs)


def test_the_number_of_graphs_is_limited(gpu: PretendedGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "_MOST_GRAPHS", 1)
    env, config = AGENTS["no context"]
    network = fake_network(env, config)
    policy = Policy(network.to(GPU), SLOTS, graphs=True)
    inputs = steps(env, network, 1)[0]
    for count in (2, 3, 4):
        for _ in range(4):
            policy.distribution({key: value[:count] for key, value in inputs.items()}, slice(0, count))
    assert len(gpu.graphs) == 1


# Weights


def test_weights_move_between_devices_through_shared_memory(gpu: PretendedGPU) -> None:
    env, config = AGENTS["fusion-mi"]
    learner, server = (fake_network(env, config, seed).to(GPU) for seed in (1, 2))
    actor = fake_network(env, config, 3)
    weights = SharedWeights([parameter.shape for parameter in learner.parameters()])
    weights.publish(learner, 5)
    assert weights.read(server) == weights.read(actor) == 5
    for one, two, three in zip(learner.parameters(), server.parameters(), actor.parameters(), strict=True):
        assert torch.equal(host(one.detach()), host(two.detach()))
        assert torch.equal(host(one.detach()), three.detach())


def test_segments_of_a_transferred_index_are_those_of_the_processor(gpu: PretendedGPU) -> None:
    index = torch.tensor([2, 0, 2, 2, 1, 2])
    found = Segments(index, 3).on(send_one(index, GPU))
    for given, expected in zip(found.grid, Segments(index, 3).grid, strict=True):
        assert torch.equal(host(given), expected) if isinstance(expected, Tensor) else given == expected
    assert gpu.waits == []
    assert torch.equal(host(found.repeated(2).grid.place), Segments(index, 3).repeated(2).grid.place)


# A real GPU


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@needs_gpu
@pytest.mark.parametrize("name", AGENTS)
def test_a_real_gpu_learns_as_the_processor_does(name: str) -> None:
    env, config = AGENTS[name]
    on_cpu, on_gpu = two_learners(env, config)
    for seed in range(3):
        batch = fake_batch(env, on_cpu.network.core_state_size, T, B, seed)
        expected, metrics = on_cpu.step(batch), on_gpu.step(batch)
        for key, value in expected.items():
            torch.testing.assert_close(metrics[key].cpu(), value, rtol=1e-2, atol=1e-3)
    for one, other in zip(on_cpu.network.parameters(), on_gpu.network.parameters(), strict=True):
        torch.testing.assert_close(other.detach().cpu(), one.detach(), rtol=1e-2, atol=1e-3)


@needs_gpu
@pytest.mark.parametrize("name", AGENTS)
def test_a_real_gpu_acts_as_the_processor_does_even_from_graphs(name: str) -> None:
    env, config = AGENTS[name]
    network = fake_network(env, config)
    on_cpu, on_gpu = Policy(copy.deepcopy(network), SLOTS), Policy(network.to(GPU), SLOTS, graphs=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for inputs in steps(env, network, 14):
            torch.testing.assert_close(on_gpu.distribution(inputs), on_cpu.distribution(inputs), rtol=1e-2, atol=1e-3)
            torch.testing.assert_close(on_gpu.core_state.cpu(), on_cpu.core_state, rtol=1e-2, atol=1e-3)
    assert on_gpu._step is not None and on_gpu._step._graphs
