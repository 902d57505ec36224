"""Batches on their way to a GPU that is pretended (pretended_gpu.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network
from pretended_gpu import GPU, OnGPU, PretendedGPU, Stream, host

from agents.fusion.device_transfer import Packing, send, send_one
from agents.learning.prefetch import Staging
from agents.trajectory import EPISODE_STATISTICS, Trajectory


def parts(count: int) -> list[tuple[Trajectory, int]]:
    return [(fake_batch(fake_env(), 10, 3, 4, seed), 4) for seed in range(count)]


def test_on_the_processor_a_batch_is_passed_on_as_it_is_and_nothing_is_fetched_ahead() -> None:
    network = fake_network(fake_env(), fake_config())
    staging = Staging(network.context_encoder, torch.device("cpu"))
    given = parts(3)
    fetched = []

    def one_by_one() -> Iterator[tuple[Trajectory, int]]:
        for part in given:
            fetched.append(part)
            yield part

    for number, part in enumerate(staging.ahead(one_by_one())):
        assert part is given[number] and len(fetched) == number + 1
        staged = staging.take(part[0])
        assert staged.batch is part[0]
        assert staged.segments.index.data_ptr() and len(staged.segments.index) == 16


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_batch_arrives_as_it_left_but_for_what_is_not_learned_from(gpu: PretendedGPU, asynchronous: bool) -> None:
    network = fake_network(fake_env(), fake_config())
    staging = Staging(network.context_encoder, GPU, asynchronous=asynchronous)
    (batch, _), *_ = parts(1)
    staged = staging.take(batch)
    stay = {*EPISODE_STATISTICS, "instruction", "reset"}
    for key, array in staged.batch.items():
        assert isinstance(array, OnGPU) == (key not in stay), key
        assert array is batch[key] if key in stay else torch.equal(host(array), batch[key])
    expected = Staging(network.context_encoder, torch.device("cpu")).take(batch)
    assert torch.equal(host(staged.segments.index), expected.segments.index)
    assert torch.equal(host(staged.contexts.instruction), expected.contexts.instruction)
    # What lies in memory that actors write into again may change from here on.
    for array in batch.values():
        array.zero_()
    assert host(staged.batch["behaviour_log_probs"]).any()


def test_the_next_batch_travels_while_one_is_learned_from(gpu: PretendedGPU) -> None:
    network = fake_network(fake_env(), fake_config())
    staging = Staging(network.context_encoder, GPU)
    stream = staging._stream
    assert isinstance(stream, Stream)
    given = parts(4)
    for number, part in enumerate(staging.ahead(iter(given))):
        assert part is given[number]
        # This one and the next are on their way, and it is waited for when it is taken.
        assert len(stream.events) == min(number + 2, len(given))
        assert not stream.events[number].waited_for
        staged = staging.take(part[0])
        assert stream.events[number].waited_for
        assert torch.equal(host(staged.batch["reward"]), part[0]["reward"])
    assert gpu.waits == []


def test_what_was_sent_and_not_taken_is_forgotten(gpu: PretendedGPU) -> None:
    network = fake_network(fake_env(), fake_config())
    staging = Staging(network.context_encoder, GPU)
    given = parts(3)
    for _ in staging.ahead(iter(given)):
        break
    other = parts(4)[3][0]
    assert torch.equal(host(staging.take(other).batch["reward"]), other["reward"])
    assert not staging._sent


def test_what_is_there_already_is_not_sent() -> None:
    tensors = {"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.bool)}
    moved = send(tensors, torch.device("cpu"))
    assert all(moved[key] is tensor for key, tensor in tensors.items())
    assert send_one(tensors["a"], torch.device("cpu")) is tensors["a"]


def test_packed_tensors_do_not_overlap_whatever_their_dtypes() -> None:
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
