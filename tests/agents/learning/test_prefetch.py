"""Copies of batches to a pretended GPU (pretended_gpu.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network
from pretended_gpu import GPU, OnGPU, PretendedGPU, Stream, host

from agents.fusion.device_transfer import Packing, send, send_one
from agents.learning.minibatches import Minibatch
from agents.learning.prefetch import Prefetcher
from agents.network.context import CONTEXT_KEYS
from agents.trajectory import EPISODE_STATISTICS


def minibatches(count: int) -> list[Minibatch]:
    return [Minibatch(fake_batch(fake_env(), 10, 3, 4, seed), 4) for seed in range(count)]


def test_on_the_cpu_nothing_is_copied_and_nothing_is_fetched_ahead() -> None:
    network = fake_network(fake_env(), fake_config())
    prefetcher = Prefetcher(network.context_encoder, torch.device("cpu"))
    given = minibatches(3)
    fetched = []

    def one_by_one() -> Iterator[Minibatch]:
        for minibatch in given:
            fetched.append(minibatch)
            yield minibatch

    for number, staged in enumerate(prefetcher(one_by_one())):
        assert len(fetched) == number + 1
        assert staged.batch is given[number].trajectory and staged.num_new == 4
        assert staged.segments.index.data_ptr() and len(staged.segments.index) == 16


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_batch_arrives_unchanged_and_host_keys_are_not_copied(gpu: PretendedGPU, asynchronous: bool) -> None:
    network = fake_network(fake_env(), fake_config())
    batch = minibatches(1)[0].trajectory
    staged = Prefetcher(network.context_encoder, GPU, asynchronous=asynchronous).stage(batch)
    stay = {*EPISODE_STATISTICS, *CONTEXT_KEYS, "reset"}
    for key, array in staged.batch.items():
        assert isinstance(array, OnGPU) == (key not in stay), key
        assert array is batch[key] if key in stay else torch.equal(host(array), batch[key])
    expected = Prefetcher(network.context_encoder, torch.device("cpu")).stage(batch)
    assert torch.equal(host(staged.segments.index), expected.segments.index)
    assert torch.equal(host(staged.contexts.instruction), expected.contexts.instruction)
    # From here on actors may overwrite the buffers.
    for array in batch.values():
        array.zero_()
    assert host(staged.batch["behaviour_log_probs"]).any()


def test_the_next_minibatch_is_copied_during_an_update(gpu: PretendedGPU) -> None:
    network = fake_network(fake_env(), fake_config())
    prefetcher = Prefetcher(network.context_encoder, GPU)
    stream = prefetcher._stream
    assert isinstance(stream, Stream)
    given = minibatches(4)
    for number, staged in enumerate(prefetcher(given)):
        # The copies of this one and the next have started. The stream waits only for this one.
        assert len(stream.events) == min(number + 2, len(given))
        assert [event.waited_for for event in stream.events] == [True] * (number + 1) + [False] * (
            len(stream.events) - number - 1
        )
        assert torch.equal(host(staged.batch["reward"]), given[number].trajectory["reward"])
    assert gpu.waits == []


def test_an_abandoned_iteration_leaves_nothing_for_the_next(gpu: PretendedGPU) -> None:
    network = fake_network(fake_env(), fake_config())
    prefetcher = Prefetcher(network.context_encoder, GPU)
    for _ in prefetcher(minibatches(3)):
        break
    other = minibatches(4)[3]
    (staged,) = prefetcher([other])
    assert torch.equal(host(staged.batch["reward"]), other.trajectory["reward"])


def test_tensors_on_the_device_are_not_sent() -> None:
    tensors = {"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.bool)}
    moved = send(tensors, torch.device("cpu"))
    assert all(moved[key] is tensor for key, tensor in tensors.items())
    assert send_one(tensors["a"], torch.device("cpu")) is tensors["a"]


def test_packed_tensors_of_different_dtypes_do_not_overlap() -> None:
    tensors = {
        "flags": torch.ones(5, dtype=torch.bool),
        "none": torch.zeros(4, 0),
        "number": torch.tensor(7),
        "image": torch.arange(9, dtype=torch.uint8).view(3, 3),
        "half": torch.full((2, 2), 1.5, dtype=torch.bfloat16),
    }
    packing = Packing(tensors)
    views = packing.views(torch.zeros(packing.num_bytes, dtype=torch.uint8))
    for key, tensor in tensors.items():
        views[key].copy_(tensor)
    for key, tensor in tensors.items():
        assert views[key].dtype == tensor.dtype and torch.equal(views[key], tensor)
