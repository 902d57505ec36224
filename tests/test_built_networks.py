"""Every suite, fusion, context, core and torso builds a network that acts. Combinations that do not fit are refused."""

from __future__ import annotations

import itertools

import pytest
import torch
from pairwise import accepted_context, pairwise

from agents.acting.policy import Policy
from agents.fusion import FLAT_SITES, FUSION_NAMES, FUSIONS
from agents.fusion.spatial import SPATIAL_FUSIONS
from agents.network.core import CORES
from agents.network.torso import TORSOS
from agents.setup.builder import build_network
from conf.loading import compose_train
from conf.names import CONTEXTS
from conf.schema import TrainConfig
from envs.spec import ArraySpec, EnvSpec
from envs.suites import SUITES, make_spec
from system.errors import InputError

TINY = [
    "fusion.size=8",
    "fusion.rank=4",
    "fusion.hidden=5",
    "fusion.experts=2",
    "core.size=8",
    "torso.size=8",
    "context.instruction_size=8",
]


def make_env_spec(
    image: tuple[int, int, int] | None = None, kind: str = "none", vector: int = 0, words: int = 6
) -> EnvSpec:
    observation = {"image": ArraySpec(shape=image, dtype="uint8")} if image else {}
    if vector:
        observation["vector"] = ArraySpec(shape=(vector,), dtype="float32")
    observation["context"] = ArraySpec(shape=(2,), dtype="float32")
    return EnvSpec(
        suite="fake",
        tasks=("a", "b"),
        observation=observation,
        instruction_length=4 if words else 0,
        vocabulary=tuple(str(word) for word in range(words)),
        num_actions=3,
        action_counts=(3, 2),
        image_kind=kind,
        symbol_counts=(4,) * image[2] if image and kind == "symbolic" else (),
    )


ENV_SPECS = {
    "symbolic": make_env_spec((7, 7, 3), "symbolic"),
    "symbolic and vector": make_env_spec((5, 6, 2), "symbolic", vector=3),
    "pixels": make_env_spec((40, 36, 3), "pixels"),
    "pixels and vector": make_env_spec((40, 36, 3), "pixels", vector=3),
    "vector": make_env_spec(vector=5),
}


def take_one_step(config: TrainConfig, env: EnvSpec) -> None:
    """Builds the network of the configuration and lets it act once in two slots."""
    network = build_network(config, env)
    inputs = {
        key: torch.zeros(1, 2, *array.shape, dtype=getattr(torch, array.dtype))
        for key, array in env.observation.items()
    }
    inputs |= {
        "task": torch.tensor([[0, len(env.tasks) - 1]], dtype=torch.int32),
        "reset": torch.ones(1, 2, dtype=torch.bool),
        "last_action": torch.full((1, 2, *env.action.shape), 0 if env.action.shape else env.num_actions),
        "last_reward": torch.zeros(1, 2),
    }
    policy = Policy(network, 2)
    instruction = (
        {"instruction": torch.ones(2, env.instruction_length, dtype=torch.int32)} if env.instruction_length else {}
    )
    action, _ = policy.act({**{key: value[0] for key, value in inputs.items()}, **instruction})
    assert action.shape == (2, *env.action.shape) and action.max() < env.num_actions


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_builds_with_its_defaults(name: str) -> None:
    config = compose_train([f"env={name}", *TINY])
    try:
        env = make_spec(config.env)
    except InputError as error:
        pytest.skip(str(error))
    if not env.instruction_length:
        config = compose_train([f"env={name}", "context=task", *TINY])
    take_one_step(config, env)


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_every_fusion_builds_with_every_context_core_and_site(fusion: str) -> None:
    """All pairs of values occur, of those that a form accepts. The composed configuration is changed, because composition takes longer."""
    config = compose_train(["env=conditional", f"fusion={fusion}", *TINY])
    at_site = [(False, True)] * len(FLAT_SITES)
    for name, context, core, *chosen in pairwise(sorted(FUSIONS), CONTEXTS, CORES, *at_site):
        if name == fusion:
            config.context.name, config.core.name = accepted_context(FUSIONS[fusion], context), core
            config.fusion.sites = list(itertools.compress(FLAT_SITES, chosen))
            take_one_step(config, ENV_SPECS["vector"])


@pytest.mark.parametrize("name", sorted(SPATIAL_FUSIONS))
def test_every_spatial_fusion_builds_with_every_torso_that_has_a_map(name: str) -> None:
    config = compose_train(
        ["env=conditional", "fusion=mi", f"fusion.spatial={name}", "fusion.sites=[torso,core_input,policy]", *TINY]
    )
    for (kind, env), context in itertools.product(ENV_SPECS.items(), CONTEXTS):
        config.context.name = context
        for torso in ("shallow", "deep") if "pixels" in kind else ("auto",):
            config.torso.name = torso
            if kind == "vector":
                with pytest.raises(InputError, match=r"fusion\.sites=\[torso,core_input,policy\] .* leave torso out"):
                    build_network(config, env)
            else:
                take_one_step(config, env)


def test_a_fusion_that_is_only_spatial_has_the_torso_as_its_site() -> None:
    for name in set(FUSION_NAMES) - set(FUSIONS):
        config = compose_train([f"fusion={name}", *TINY])
        assert config.fusion.sites == ["torso"]
        assert set(build_network(config, ENV_SPECS["symbolic"]).fusions) == {"torso"}


FITTING = {
    "grid": ("symbolic",),
    "shallow": ("pixels",),
    "deep": ("pixels",),
    "impoola": ("pixels",),
    "mlp": ("vector",),
    "auto": ("symbolic", "pixels", "vector"),
}


@pytest.mark.parametrize("torso", TORSOS)
def test_a_torso_builds_for_its_observations_and_refuses_others(torso: str) -> None:
    config = compose_train(["env=conditional", f"torso={torso}", *TINY])
    for kind, env in ENV_SPECS.items():
        if kind.split(" ")[0] in FITTING[torso]:
            take_one_step(config, env)
            continue
        with pytest.raises(InputError, match=f"torso={torso} does not fit .* use ") as caught:
            build_network(config, env)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hidden", [[], [5], [5, 7]])
def test_hidden_layers_of_the_mlp(hidden: list[int]) -> None:
    config = compose_train(["env=conditional", f"torso.hidden={hidden}".replace(" ", ""), *TINY])
    network = build_network(config, ENV_SPECS["vector"])
    assert network.torso({"vector": torch.zeros(2, 5)}).shape == (2, hidden[-1] if hidden else 5)
    take_one_step(config, ENV_SPECS["vector"])


def test_images_that_are_too_small_are_refused() -> None:
    for torso, kind, shape in (("grid", "symbolic", (3, 3, 2)), ("shallow", "pixels", (16, 40, 3))):
        with pytest.raises(InputError, match=f"torso={torso} needs images of at least"):
            build_network(compose_train(["env=conditional", f"torso={torso}"]), make_env_spec(shape, kind))


def test_a_context_of_instructions_needs_instructions() -> None:
    for context in ("instruction", "both"):
        config = compose_train(["env=conditional", f"context={context}"])
        with pytest.raises(InputError, match=f"context={context} needs instructions .* use context=task"):
            build_network(config, make_spec(config.env))


def test_the_value_head_has_one_output_for_each_task_with_popart() -> None:
    for popart, outputs in ((True, 2), (False, 1)):
        config = compose_train(["env=conditional", f"learner.popart={popart}", *TINY])
        assert build_network(config, ENV_SPECS["vector"]).value_head.num_outputs == outputs


@pytest.mark.parametrize("rounds", [1, 4])
def test_the_mogrifier_has_the_configured_rounds(rounds: int) -> None:
    config = compose_train(["env=conditional", "core=mogrifier", f"core.rounds={rounds}", *TINY])
    assert len(build_network(config, ENV_SPECS["vector"]).core.rounds) == rounds
    assert len(build_network(compose_train(["core=mogrifier", *TINY]), ENV_SPECS["symbolic"]).core.rounds) == 5


@pytest.mark.parametrize("encoder", ["lstm", "transformer"])
def test_trunk_matrices_are_those_of_torso_context_encoder_and_core_without_embeddings(encoder: str) -> None:
    config = compose_train(["context=both", f"context.encoder={encoder}", "torso=grid", "fusion=mi", *TINY])
    network = build_network(config, ENV_SPECS["symbolic"])
    trunk = {id(matrix) for matrix in network.trunk_matrices}
    for name, parameter in network.named_parameters():
        is_looked_up = name in ("context_encoder.task_embedding.weight", "context_encoder.word_embedding.weight")
        is_of_trunk = name.split(".")[0] in ("torso", "context_encoder", "core") and not is_looked_up
        assert (id(parameter) in trunk) == (is_of_trunk and parameter.ndim > 1), name
    assert len(trunk) == len(network.trunk_matrices)
