"""The forms of agents/fusion/multitask.py: what they equal, what their sites share, and what they can represent exactly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fakes import fake_config, fake_env
from test_fusion import build, disturbed, draw
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion import FUSIONS
from agents.fusion.multitask import MultiHead, PaCo, orthogonalize
from agents.network.context import Contexts
from agents.setup.builder import build_network
from conf.loading import compose_train
from system.errors import InputError

T, X, K = 4, 3, 5
"""Tasks, features of x, outputs."""
CODES = torch.eye(T, dtype=torch.float64)


def test_multi_head_is_a_linear_layer_for_each_task_and_appends_the_rest_of_the_context() -> None:
    torch.manual_seed(0)
    fusion = disturbed(MultiHead(X, T + 2, K, num_tasks=T).double())
    tasks, x, rest = torch.tensor([2, 0, 0, 3, 1]), draw(5, X), draw(5, 2)
    heads = [torch.nn.Linear(X + 2, K).double() for _ in range(T)]
    with torch.no_grad():
        for task, head in enumerate(heads):
            head.weight.copy_(torch.cat([fusion.W[task].view(K, X), fusion.U[T:].t()], dim=1))
            head.bias.copy_(fusion.U[task])
    expected = torch.stack([heads[task](torch.cat([x[n], rest[n]])) for n, task in enumerate(tasks.tolist())])
    torch.testing.assert_close(fusion(x, torch.cat([CODES[tasks], rest], dim=1)), expected)


def test_multi_head_starts_with_unit_variance_on_codes_of_tasks() -> None:
    torch.manual_seed(0)
    for rest in (0, 16):
        fusion = MultiHead(64, 8 + rest, 48, num_tasks=8)
        z = torch.cat([F.one_hot(torch.arange(400) % 8, 8), torch.randn(400, rest)], dim=1)
        assert 0.8 < fusion(torch.randn(400, 64), z).var() < 1.25


def test_a_head_learns_from_its_own_task_alone() -> None:
    fusion = build("multi_head", X, T, K)
    fusion(draw(6, X), CODES[torch.tensor([1, 1, 3, 1, 3, 3])]).pow(2).sum().backward()
    assert [bool(grad.any()) for grad in fusion.W.grad] == [False, True, False, True]  # type: ignore[union-attr]


def test_a_mixture_is_one_layer_paco_whose_weights_are_a_softmax() -> None:
    """Any mixture of T tasks is a PaCo layer with equal parameter sets. The reverse is false: weights of PaCo may be negative."""
    mixture, paco = disturbed(build("mixture", X, T, K)), build("paco", X, T, K)
    assert isinstance(paco, PaCo)
    with torch.no_grad():
        shares = torch.softmax(mixture.A + mixture.a[:, None], dim=0)  # type: ignore[operator]
        paco.composition.A.copy_(shares)
        paco.composition.a.zero_()
        paco.W.copy_(mixture.W)
        paco.U.copy_(mixture.U)
    x = draw(20, X)
    z = CODES[torch.arange(20) % T]
    torch.testing.assert_close(paco(x, z), mixture(x, z))
    with torch.no_grad():
        paco.composition.A[:, 0] = -1.0
    weights = torch.linalg.lstsq(paco.W.t(), paco.affine_form(CODES[:1]).matrix.reshape(-1, 1)).solution
    torch.testing.assert_close(weights, -torch.ones_like(weights))


def test_paco_is_mi_whose_tensor_has_the_rank_of_its_parameter_sets() -> None:
    fusion = disturbed(build("paco", X, T, K, free=2))
    dense = fusion.to_full_mi()
    assert torch.linalg.matrix_rank(torch.cat([dense.W.flatten(1), dense.U], dim=1)) == 2


def test_all_sites_of_an_agent_share_one_composition() -> None:
    env = fake_env()
    network = build_network(fake_config(fusion="paco"), env)
    first, *others = (fusion.composition for fusion in network.fusions.values())  # type: ignore[union-attr]
    assert len(others) == 2 and all(other is first for other in others)
    names = [name for name, _ in network.named_parameters() if "composition" in name]
    assert len(names) == 2, "the optimiser and the actors see each shared parameter once"
    # Sites keep one composition after a load, and in an actor's copy in bf16, whose head stays in single precision.
    network.load_state_dict(build_network(fake_config(fusion="paco"), env).state_dict())
    network.lower_precision(torch.bfloat16)
    contexts = Contexts(torch.arange(2), torch.ones(2, 3, dtype=torch.long))
    modulations = network.condition(contexts)
    assert modulations["core_input"][0].dtype == torch.bfloat16 and modulations["policy"][0].dtype == torch.float32


@pytest.mark.parametrize(
    ("context", "refused"), [("task", False), ("both", False), ("instruction", True), ("none", True)]
)
def test_multi_head_needs_the_task(context: str, refused: bool) -> None:
    config = fake_config(fusion="multi_head", context=context)
    if refused:
        with pytest.raises(InputError, match=f"fusion=multi_head .* context={context} .* context=task or context=both"):
            build_network(config, fake_env())
        config.fusion.sites = []
    network = build_network(config, fake_env())
    # The code of the task replaces its embedding, which this form does not read.
    assert network.context_encoder.task_encoding == ("embedding" if refused else "one_hot")


def test_experts_that_cannot_be_orthogonal_are_refused() -> None:
    with pytest.raises(InputError, match=r"fusion\.hidden=7 .* fusion\.experts=8 orthogonal .* fusion=moore"):
        compose_train(["fusion=moore", "fusion.hidden=7"])
    compose_train(["fusion=moore", "fusion.hidden=8"])
    compose_train(["fusion=care", "fusion.hidden=7"])


def test_orthogonalize_is_the_gram_schmidt_process() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(20, 6, 9, dtype=torch.float64)
    basis = orthogonalize(vectors)
    torch.testing.assert_close(basis @ basis.transpose(1, 2), torch.eye(6, dtype=torch.float64).expand(20, 6, 6))
    # Q R of the columns, with a positive diagonal of R, is the same process.
    q, r = torch.linalg.qr(vectors.transpose(1, 2))
    torch.testing.assert_close(basis, (q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)).transpose(1, 2))


def test_orthogonal_experts_stay_finite_where_experts_coincide() -> None:
    vectors = torch.ones(2, 3, 4, requires_grad=True)
    basis = orthogonalize(vectors)
    basis.sum().backward()
    assert basis.isfinite().all() and vectors.grad.isfinite().all()  # type: ignore[union-attr]
    assert orthogonalize(torch.randn(2, 3, 4, dtype=torch.bfloat16)).dtype == torch.float32


def solve(name: str, maps: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A fusion of this name with weights that give task t the linear map maps[t] [K, X]."""
    experts = hidden = 1
    if name in ("care", "soft_modularization"):
        experts, hidden = T, 2 * X
    elif name == "moore":
        experts, hidden = T, T * X
    elif name == "paco":
        experts = T
    fusion = FUSIONS[name](
        X, T, K, **{"multi_head": {}, "paco": {"experts": experts}}.get(name, {"hidden": hidden, "experts": experts})
    )
    fusion = fusion.double()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.zero_()
        if name == "multi_head":
            fusion.W.copy_(maps.flatten(1))
        elif name == "paco":
            # Any invertible weights of the tasks serve.
            torch.manual_seed(1)
            fusion.composition.A.copy_(torch.randn(T, T))
            fusion.W.copy_(torch.linalg.solve(fusion.composition.A.t(), maps.flatten(1)))
        elif name == "moore":
            # Each expert has features of its own, so that the process changes lengths alone.
            for task in range(T):
                rows = slice(task * X, (task + 1) * X)
                fusion.A.view(T, hidden, X)[task, rows] = torch.eye(X)
                fusion.C[:, rows] = maps[task]
            fusion.B.copy_(torch.eye(T))
        else:
            # relu(B x) - relu(-B x) = B x. The weights of the tasks are an invertible matrix, and the B solve for their maps.
            logits = torch.eye(T, dtype=torch.float64)
            square = torch.linalg.solve(logits.softmax(dim=1), maps.flatten(1)).view(T, K, X)
            left, right = square[:, :X], torch.zeros(T, 2 * X, X)
            right[:, :X], right[:, X:] = left, -left
            fusion.A.copy_(right.reshape(-1, X))
            output = torch.zeros(K, 2 * X)
            output[:X] = torch.cat([torch.eye(X), -torch.eye(X)], dim=1)
            if name == "care":
                fusion.Q.copy_(logits)
                fusion.C.copy_(output)
            else:
                # f = 1 and F = 0: the route depends on the context alone.
                fusion.f.fill_(1.0)
                fusion.H[:T].copy_(torch.eye(T))
                fusion.D.view(T, T, -1)[:, :, :T] = torch.eye(T)
                fusion.C.copy_((output / T).repeat(1, T))
    return fusion


@pytest.mark.parametrize("name", ["multi_head", "paco", "care", "soft_modularization", "moore"])
def test_each_form_represents_another_linear_map_for_each_task(name: str) -> None:
    """Exactly, with finite weights; `moore` up to the length of x, which does not change the best action of a policy head."""
    torch.manual_seed(0)
    maps = torch.randn(T, K, X, dtype=torch.float64)
    # X outputs are arbitrary where a hidden layer of 2X features makes them.
    maps[:, X:] = 0 if name in ("care", "soft_modularization") else maps[:, X:]
    x, tasks = draw(40, X), torch.arange(40) % T
    y, expected = solve(name, maps)(x, CODES[tasks]), torch.einsum("nkx,nx->nk", maps[tasks], x)
    if name == "moore":
        expected = expected / x.norm(dim=1, keepdim=True) * (T * X) ** 0.5
    torch.testing.assert_close(y, expected)
