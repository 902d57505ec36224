"""mimpala.load and Agent: the same actions as the actor of training, typed instructions, and refusals."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_agents import damaged, make_checkpoint

import mimpala
from agents.acting.actor import Actor
from agents.acting.policy import Policy
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from agents.trajectory import allocate, trajectory_spec
from envs.instructions import Tokenizer
from mimpala.agent import Agent
from tests.stress.hostile_checkpoints import change_content

BABYAI = ["env=babyai", "env.engine=minigrid", "env.tasks=[BabyAI-GoToRedBall-v0]", "core.size=16", "fusion.size=16"]


@pytest.fixture(scope="module")
def babyai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("babyai"), *BABYAI, "torso.size=16")


@pytest.fixture(scope="module")
def continuous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(
        tmp_path_factory.mktemp("pendulum"), "env=gymnasium", "env.tasks=[Pendulum-v1]", "context=none"
    )


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def image(agent: Agent) -> np.ndarray[Any, Any]:
    return np.zeros(agent.spec.observation["image"].shape, np.uint8)


@pytest.mark.parametrize("which", ["checkpoint", "continuous"])
def test_the_agent_takes_the_actions_of_the_actor(request: pytest.FixtureRequest, which: str) -> None:
    """Over several episodes of two slots, greedily. The actor is that of training and evaluation."""
    agent = mimpala.load(request.getfixturevalue(which))
    slots, steps = 2, 420 if which == "continuous" else 60
    task = agent.spec.tasks[-1]
    network = agent._saved.network(agent.spec)
    actor = Actor(agent.make_env(task, slots=slots), Policy(network, slots, greedy=True), network.actions, seed=(0,))
    played = allocate(trajectory_spec(agent.spec, steps, slots, network.core_state_size))
    actor.unroll(played)

    env = agent.make_env(task, slots=slots)
    agent.reset(slots)
    observation, _ = env.reset()
    reward, begins, ended = np.zeros(slots), np.zeros(slots, bool), np.zeros(slots, bool)
    for t in range(steps):
        action = agent.act(observation, reward=reward, reset=begins, greedy=True)
        expected = network.actions.for_env(played["action"][t].numpy())
        # The action of a step that only resets is ignored.
        np.testing.assert_allclose(action[~ended], expected[~ended], rtol=1e-5)
        observation, reward, terminated, truncated, _ = env.step(action)
        begins, ended = ended, terminated | truncated
    assert played["reset"][1:].any()


def test_a_typed_instruction_is_tokenized_and_matters(babyai: Path) -> None:
    agent = mimpala.load(babyai)
    # So that the instruction changes the greedy action of an untrained agent.
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in agent._network.parameters():
            parameter.normal_()
    observation = {"image": image(agent), "direction": 0}
    tokens = Tokenizer(agent.spec.vocabulary, agent.spec.instruction_length).encode("go to the red ball")
    texts = ["go to the red ball", "pick up the blue key", "open the green door", "put the grey box next to the door"]

    def act(**given: Any) -> Any:
        agent.reset()
        return agent.act(observation | given.pop("seen", {}), greedy=True, **given)

    assert len({act(instruction=text) for text in texts}) > 1
    for text in texts:
        assert act(instruction=text) == act(seen={"mission": text}) == act(seen={"mission": "go"}, instruction=text)
    assert act(instruction=texts[0]) == act(seen={"instruction": tokens})
    action = act(instruction=texts[0])
    assert type(action) is int and 0 <= action < agent.spec.num_actions


def test_slots_differ_in_their_instruction_and_their_reset(babyai: Path) -> None:
    agent = mimpala.load(babyai)
    texts = ["go to the red ball", "pick up the blue key"]
    pictures = np.stack([image(agent)] * 2)
    together = []
    agent.reset(2)
    for begins in ([True, True], [False, False], [False, True]):
        together.append(agent.act(pictures, instruction=texts, reset=begins, reward=[0.5, 0.0], greedy=True))
        states = agent._policy.core_state.clone()
    for slot, text in enumerate(texts):
        agent.reset(1)
        for t, begins in enumerate([True, False, slot == 1]):
            reward = 0.5 if slot == 0 else 0.0
            assert (
                agent.act(image(agent), instruction=text, reset=begins, reward=reward, greedy=True) == together[t][slot]
            )
        torch.testing.assert_close(agent._policy.core_state[0], states[slot])


def test_sampled_actions_follow_the_seed(babyai: Path) -> None:
    agent = mimpala.load(babyai)

    def play(seed: int) -> list[int]:
        agent.reset(seed=seed)
        return [agent.act(image(agent), instruction="go to the red ball") for _ in range(30)]

    assert play(1) == play(1) != play(2)


def test_tasks_are_named_or_numbered(checkpoint: Path) -> None:
    agent = mimpala.load(checkpoint)
    vector = np.ones(agent.spec.observation["vector"].shape, np.float32)

    def state(task: Any) -> torch.Tensor:
        agent.reset(2)
        agent.act({"vector": np.stack([vector] * 2)}, task=task, greedy=True)
        return agent._policy.core_state.clone()

    torch.testing.assert_close(state("map-1"), state(1))
    torch.testing.assert_close(state(["map-0", "map-1"]), state([0, 1]))
    assert not torch.equal(state("map-0"), state("map-1"))


def test_unknown_words_are_reported_once(babyai: Path) -> None:
    agent = mimpala.load(babyai)
    with pytest.warns(UserWarning, match="does not know sphere in the instruction"):
        agent.act(image(agent), instruction="go to the red sphere")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.act(image(agent), instruction="go to the red sphere")
        agent.act(image(agent), instruction="go to the red ball")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"observation": np.zeros((3, 3), np.uint8)},
            "the observation's image is [3, 3], and the agent reads [7, 7, 3]",
        ),
        ({"observation": np.full((7, 7, 3), 300)}, "holds numbers that are no uint8"),
        ({"observation": {"picture": 0}}, "the observation has no image: give uint8 [7, 7, 3]"),
        ({"instruction": None}, "instruction= is missing"),
        ({"instruction": ["a", "b"]}, "instruction has 2 texts"),
        ({"instruction": np.zeros(5, np.int32)}, "the instruction's tokens are [5]"),
        ({"instruction": np.full(72, 10**6)}, "the instruction"),
        ({"reward": [1.0, 2.0]}, "reward has the shape [2]"),
        ({"task": "BabyAI-Nothing-v0"}, "task=BabyAI-Nothing-v0 is unknown: choose one of BabyAI-GoToRedBall-v0"),
        ({"task": 3}, "task=3 is unknown"),
    ],
)
def test_act_refuses_what_the_agent_cannot_read(babyai: Path, given: dict[str, Any], sentence: str) -> None:
    agent = mimpala.load(babyai)
    arguments = {"observation": image(agent), "instruction": "go to the red ball"} | given
    with pytest.raises(mimpala.InputError) as refused:
        agent.act(arguments.pop("observation"), **arguments)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_a_task_is_needed_where_it_matters(checkpoint: Path, babyai: Path) -> None:
    agent = mimpala.load(checkpoint)
    with pytest.raises(mimpala.InputError, match="task= is missing: give one of map-0, map-1, memory-0"):
        agent.act(np.zeros(agent.spec.observation["vector"].shape, np.float32))
    with pytest.raises(mimpala.InputError, match="slots=0"):
        agent.reset(0)


def test_load_names_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / checkpoint.name).write_bytes(checkpoint.read_bytes())
    assert mimpala.load(run).updates == mimpala.load(run, which=checkpoint).updates == 0
    with pytest.raises(mimpala.InputError, match="no best checkpoint"):
        mimpala.load(run, which="best")
    with pytest.raises(mimpala.InputError, match="does not exist"):
        mimpala.load(tmp_path / "nothing")


def change_shape(env: dict[str, Any]) -> None:
    env["observation"]["vector"]["shape"] = [2**40]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda env: env["observation"].update(x=env["observation"].pop("vector")), "is damaged or crafted"),
        (
            lambda env: env["observation"].update(action_mask={"shape": [3], "dtype": "bool"}),
            "its agent cannot act: RuntimeError",
        ),
        (lambda env: env["observation"]["vector"].update(dtype="object"), "a type of observations"),
        (change_shape, "a shape at env observation vector shape"),
        (lambda env: env.update(instruction_length=2**40), "a length at env instruction_length"),
        (lambda env: env.update(symbol_counts=[2**20, 2**20]), "numbers of codes at env symbol_counts"),
        (lambda env: env.update(action_repeat=0), "a count above zero at env action_repeat"),
    ],
)
def test_a_checkpoint_that_describes_other_observations_is_refused(
    checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    path = damaged(checkpoint, tmp_path / checkpoint.name, lambda content: change(content["env"]))
    with pytest.raises(mimpala.InputError) as refused:
        mimpala.load(path)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.slow
@settings(max_examples=25)
@given(rng=st.randoms(use_true_random=True))
def test_an_agent_with_hostile_values_acts_or_is_refused(
    checkpoint: Path, babyai: Path, scratch: Path, rng: random.Random
) -> None:
    """The checksum is correct. `load` compares the file with no suite, unlike evaluate.py."""
    content = load_checkpoint(rng.choice([checkpoint, babyai]))
    # Other parts are not read.
    parts = {key: content[key] for key in ("env", "config")} | {"weights": content["learner"]["network"]}
    changes = change_content(parts, rng)
    content.update({key: parts.get(key) for key in ("env", "config")})
    content["learner"]["network"] = parts.get("weights")
    path = save_checkpoint(scratch, 0, content)
    try:
        agent = mimpala.load(path)
        seen = {key: np.ones(array.shape, array.dtype) for key, array in agent.spec.observation.items()}
        agent.act(seen, task=0, instruction="go to the red ball")
    except mimpala.InputError:
        pass
    except Exception as error:
        raise AssertionError(changes) from error
