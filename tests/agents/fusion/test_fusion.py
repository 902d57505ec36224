"""Every fusion: its equation, its two readings, its initialisation, and its output without a context."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion import FUSIONS, OPTIONS
from agents.fusion.base import Fusion
from agents.fusion.gating import FiLM
from agents.fusion.padding import bucket_size
from agents.fusion.segments import Segments, grouped_linear, identity_segments

NAMES = sorted(FUSIONS)


def build(name: str, x_size: int, z_size: int, out_size: int, *, free: int = 3, seed: int = 0) -> Fusion:
    """A fusion of that name in double precision, with `free` as its rank, hidden units or experts."""
    torch.manual_seed(seed)
    return FUSIONS[name](x_size, z_size, out_size, **dict.fromkeys(OPTIONS.get(name, ()), free)).double()


def disturbed(fusion: Fusion) -> Fusion:
    """Adds noise to every parameter, so that no term is hidden by a zero."""
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return fusion


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def concat(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    return torch.einsum("kx,nx->nk", p["V"], x) + torch.einsum("kz,nz->nk", p["U"], z) + p["b"]


def gated(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    gate = 1 / (1 + torch.exp(-(torch.einsum("kz,nz->nk", p["U"], z) + p["c"])))
    return gate * (torch.einsum("kx,nx->nk", p["V"], x) + p["b"])


def film(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    gamma = torch.einsum("kz,nz->nk", p["G"], z) + p["g"]
    beta = torch.einsum("kz,nz->nk", p["U"], z) + p["b"]
    return (1 + gamma) * torch.einsum("kx,nx->nk", p["V"], x) + beta


def low_rank(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    mixed = torch.einsum("kr,rx,nx,rz,nz->nk", p["C"], p["A"], x, p["B"], z)
    return mixed + torch.einsum("kx,nx->nk", p["V"], x) + torch.einsum("nz,zk->nk", z, p["U"]) + p["b"]


def mi(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    """W is stored times sqrt(Z)."""
    tensor = p["W"].view(z.shape[1], -1, x.shape[1]) / z.shape[1] ** 0.5
    return (
        torch.einsum("nz,zkx,nx->nk", z, tensor, x)
        + torch.einsum("nz,zk->nk", z, p["U"])
        + torch.einsum("kx,nx->nk", p["V"], x)
        + p["b"]
    )


def concat_mlp(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    hidden = torch.einsum("hx,nx->nh", p["V"], x) + torch.einsum("hz,nz->nh", p["U"], z) + p["c"]
    return torch.einsum("kh,nh->nk", p["C"], hidden.clamp(min=0)) + p["b"]


def sum_(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    return torch.einsum("kx,nx->nk", p["V"], x + torch.einsum("xz,nz->nx", p["U"], z)) + p["b"]


def diagonal(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    factor = torch.einsum("kz,nz->nk", p["U"], z) + p["c"]
    return factor * (torch.einsum("kx,nx->nk", p["V"], x) + p["b"])


def scale_shift(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    gamma, beta = z @ p["G"][0] + p["g"], z @ p["U"][0] + p["b"]
    return (1 + gamma)[:, None] * torch.einsum("kx,nx->nk", p["V"], x) + beta[:, None]


def tucker(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    rank = len(p["A"])
    core = p["G"].view(rank, rank, rank) / rank**0.5
    mixed = torch.einsum("kr,srq,sz,nz,qx,nx->nk", p["C"], core, p["B"], z, p["A"], x)
    return mixed + torch.einsum("kx,nx->nk", p["V"], x) + torch.einsum("nz,zk->nk", z, p["U"]) + p["b"]


def hypernetwork(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    hidden = (torch.einsum("hz,nz->nh", p["A"], z) + p["a"]).clamp(min=0)
    matrix = p["V"] + torch.einsum("nh,hkx->nkx", hidden, (2 / len(p["a"])) ** 0.5 * p["W"].view(-1, *p["V"].shape))
    return torch.einsum("nkx,nx->nk", matrix, x) + torch.einsum("nh,hk->nk", hidden, p["U"]) + p["b"]


def mixture(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    logits = torch.einsum("ez,nz->ne", p["A"], z) + p["a"]
    share = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    experts = torch.einsum("ekx,nx->nek", p["W"].view(len(p["a"]), -1, x.shape[1]), x) + p["U"]
    return torch.einsum("ne,nek->nk", share, experts)


def cross_attention(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    """Of one token, whose weight beside the empty one is a sigmoid."""
    size = p["Q"].shape[1]
    scores = torch.einsum("hfx,nx,hfz,nz->nh", p["Q"], x, p["A"], z) / size**0.5
    read = torch.einsum("nh,hfz,nz,hfk->nk", 1 / (1 + torch.exp(-scores)), p["D"], z, p["C"])
    return torch.einsum("kx,nx->nk", p["V"], x) + p["b"] + read


def multi_head(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    """All features of z are the code."""
    heads = torch.einsum("tkx,nx->ntk", p["W"].view(z.shape[1], -1, x.shape[1]), x) + p["U"]
    return torch.einsum("nt,ntk->nk", z, heads)


def paco(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    sets = torch.cat([p["W"].view(len(p["U"]), -1, x.shape[1]), p["U"].unsqueeze(2)], dim=2)
    theta = torch.einsum("ekx,ne->nkx", sets, z @ p["composition.A"].t() + p["composition.a"])
    return torch.einsum("nkx,nx->nk", theta, torch.cat([x, torch.ones_like(x[:, :1])], dim=1))


def encodings(p: dict[str, Tensor], x: Tensor, experts: int) -> Tensor:
    """A_e x + a_e, [N, E, H]."""
    return torch.einsum("ehx,nx->neh", p["A"].view(experts, -1, x.shape[1]), x) + p["a"].view(experts, -1)


def care(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    share = torch.einsum("ez,nz->ne", p["Q"], z).add(p["q"]).exp()
    mixed = torch.einsum("ne,neh->nh", share, encodings(p, x, len(p["q"])).clamp(min=0)) / share.sum(dim=1)[:, None]
    return torch.einsum("kh,nh->nk", p["C"], mixed) + torch.einsum("kz,nz->nk", p["U"], z) + p["b"]


def soft_modularization(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    experts = round(len(p["d"]) ** 0.5)
    embedding = (x @ p["F"].t() + p["f"]) * (z @ p["H"].t() + p["h"])
    share = (embedding.clamp(min=0) @ p["D"].t() + p["d"]).exp().view(-1, experts, experts)
    share = share / share.sum(dim=2, keepdim=True)
    routed = torch.einsum("nij,njh->nih", share, encodings(p, x, experts).clamp(min=0))
    return torch.einsum("kih,nih->nk", p["C"].view(len(p["b"]), experts, -1), routed) + p["b"]


def moore(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    """Gram-Schmidt as in the textbook: each expert minus its components along the earlier ones, sample by sample."""
    weights = z @ p["B"].t() + p["g"]
    rows = []
    for n, experts in enumerate(encodings(p, x, len(p["g"]))):
        basis: list[Tensor] = []
        for expert in experts:
            rest = expert - sum(((expert @ earlier) * earlier for earlier in basis), torch.zeros_like(expert))
            basis.append(rest / rest.norm())
        rows.append(p["C"] @ sum(w * v for w, v in zip(weights[n], basis, strict=True)) * len(experts[0]) ** 0.5)
    return torch.stack(rows) + z @ p["U"].t() + p["b"]


EQUATIONS: dict[str, Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]] = {
    "concat": concat,
    "concat_mlp": concat_mlp,
    "sum": sum_,
    "gated": gated,
    "diagonal": diagonal,
    "scale_shift": scale_shift,
    "film": film,
    "low_rank": low_rank,
    "tucker": tucker,
    "mi": mi,
    "hypernetwork": hypernetwork,
    "mixture": mixture,
    "cross_attention": cross_attention,
    "multi_head": multi_head,
    "paco": paco,
    "care": care,
    "soft_modularization": soft_modularization,
    "moore": moore,
}


@pytest.mark.parametrize("name", NAMES)
def test_equals_its_equation(name: str) -> None:
    fusion = disturbed(build(name, 5, 4, 6))
    x, z = draw(9, 5), draw(9, 4)
    parameters = dict(fusion.named_parameters())
    torch.testing.assert_close(fusion(x, z), EQUATIONS[name](parameters, x, z))
    torch.testing.assert_close(fusion(x[:1], z[:1]), EQUATIONS[name](parameters, x[:1], z[:1]))


def gradients(fusion: Fusion, y: Tensor, weights: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((y * weights).sum(), [*inputs, *fusion.parameters()]))


@pytest.mark.parametrize("name", NAMES)
@given(
    index=st.integers(1, 6).flatmap(lambda u: st.lists(st.integers(0, u - 1), min_size=1, max_size=12)),
    unused=st.integers(0, 2),
    sizes=st.tuples(st.integers(1, 5), st.integers(0, 4), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
def test_modulate_by_segment_equals_the_plain_reading(
    name: str, index: list[int], unused: int, sizes: tuple[int, int, int], seed: int
) -> None:
    """Values and gradients, for contexts that repeat, that are used once, and that no sample uses."""
    x_size, z_size, out_size = sizes
    fusion = disturbed(build(name, x_size, z_size, out_size, seed=seed))
    rows = torch.tensor(index)
    count = max(index) + 1 + unused
    x, z = draw(len(index), x_size).requires_grad_(), draw(count, z_size).requires_grad_()
    weights = draw(len(index), out_size)
    plain = fusion(x, z[rows])
    expected = gradients(fusion, plain, weights, x, z)
    # With and without knowing how many samples there are, which decides what some forms prepare.
    for samples in (None, len(index)):
        by_segment = fusion.modulate(x, fusion.condition(z, samples), Segments(rows, count))
        torch.testing.assert_close(by_segment, plain)
        torch.testing.assert_close(gradients(fusion, by_segment, weights, x, z), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["mi", "hypernetwork", "mixture", "multi_head", "paco"])
def test_weights_are_not_generated_for_contexts_that_hardly_repeat(name: str) -> None:
    fusion, z = build(name, 5, 4, 6), draw(3, 4)
    assert fusion.condition(z)[0].shape == fusion.condition(z, 6)[0].shape == (3, 6, 5)
    assert fusion.condition(z, 5)[0].dim() == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("index", [[0] * 5, [3, 1, 4, 0, 2], [0, 1, 2, 3, 4], [2, 2, 0, 2, 0], [7, 0, 7, 3, 3]])
def test_each_path_of_the_grouped_product(name: str, index: list[int]) -> None:
    """One context for all; as many contexts as samples, in another order; fewer; more than samples."""
    fusion = disturbed(build(name, 4, 3, 6))
    rows, count = torch.tensor(index), max(index) + 1
    x, z = draw(5, 4).requires_grad_(), draw(count, 3).requires_grad_()
    weights = draw(5, 6)
    by_segment = fusion.modulate(x, fusion.condition(z), Segments(rows, count))
    singly = torch.cat([fusion(x[n : n + 1], z[index[n]][None]) for n in range(5)])
    torch.testing.assert_close(by_segment, singly)
    torch.testing.assert_close(
        gradients(fusion, by_segment, weights, x, z), gradients(fusion, singly, weights, x, z), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("index", [[0, 0, 0], [2, 0, 1], [3, 0, 3, 1, 0, 0], [1, 4], [0] * 8 + [1, 5]])
def test_gradient_of_the_grouped_product(index: list[int]) -> None:
    count = max(index) + 1
    arguments = draw(len(index), 3), draw(count, 2, 3)
    segments = Segments(torch.tensor(index), count)
    assert torch.autograd.gradcheck(
        lambda *arguments: grouped_linear(*arguments, segments), [argument.requires_grad_() for argument in arguments]
    )


@given(index=st.lists(st.integers(0, 9), min_size=1, max_size=60), unused=st.integers(0, 40))
def test_the_grid_holds_every_sample_in_a_row_of_its_context(index: list[int], unused: int) -> None:
    rows, count = torch.tensor(index), max(index) + 1 + unused
    grid = Segments(rows, count).grid
    owner = torch.arange(count) if grid.owner is None else grid.owner
    assert torch.equal(owner[grid.place // grid.width], rows)
    assert len(set(grid.place.tolist())) == len(index)
    assert len(owner) * grid.width <= 3 * max(len(index), count) + 2 * count


def test_a_context_with_most_of_the_samples_does_not_widen_all_rows() -> None:
    index = torch.cat([torch.arange(100), torch.zeros(900, dtype=torch.long)])
    grid = Segments(index, 100).grid
    assert grid.width == 20 and len(grid.owner) == bucket_size(99 + 46)  # type: ignore[arg-type]


@pytest.mark.parametrize(("samples", "gathers"), [(7, True), (8, False)])
def test_acting_gathers_a_weight_matrix_for_each_sample_where_contexts_hardly_repeat(
    samples: int, gathers: bool
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(samples, 3), torch.randn(4, 2, 3)
    segments = Segments(torch.arange(samples) % 4, 4)
    with torch.inference_mode():
        y = grouped_linear(x, weight, segments)
    torch.testing.assert_close(y, torch.einsum("nkx,nx->nk", weight[segments.index], x))
    assert ("grid" in vars(segments)) != gathers


def test_the_grouped_product_accepts_a_gradient_that_is_not_contiguous() -> None:
    index = torch.tensor([1, 0, 1, 1])
    x, weight = draw(4, 3).requires_grad_(), draw(2, 2, 3).requires_grad_()
    y = grouped_linear(x, weight, Segments(index, 2))
    got = torch.autograd.grad(y.sum(), (x, weight))  # sum's gradient is one number, expanded
    torch.testing.assert_close(got[0], weight.sum(dim=1)[index])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("index", [[0] * 6, [1, 3, 2, 0, 5, 4], [2, 0, 2, 1, 1, 1]])
def test_half_precision_is_near(name: str, index: list[int]) -> None:
    fusion = build(name, 8, 4, 6).float()
    rows, count = torch.tensor(index), max(index) + 1
    x, z = torch.randn(6, 8, requires_grad=True), torch.randn(count, 4, requires_grad=True)
    exact = fusion.modulate(x, fusion.condition(z), Segments(rows, count))
    with torch.autocast("cpu", torch.bfloat16):
        rough = fusion.modulate(x, fusion.condition(z), Segments(rows, count))
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.1)
    for a, b in zip(
        *(torch.autograd.grad(y.float().sum(), [x, z, *fusion.parameters()]) for y in (rough, exact)), strict=True
    ):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("z_size", [1, 8, 64, 512])
def test_output_starts_with_unit_variance(name: str, z_size: int) -> None:
    fusion = build(name, 64, z_size, 48, free=32)
    with torch.no_grad():
        y = fusion(draw(256, 64), draw(256, z_size))
    assert 0.5 < float(y.var()) < 2


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_everything_from_the_start(name: str) -> None:
    fusion = build(name, 5, 4, 6)
    x, z = draw(7, 5).requires_grad_(), draw(7, 4).requires_grad_()
    found = gradients(fusion, fusion(x, z), draw(7, 6), x, z)
    for (label, _), gradient in zip([("x", x), ("z", z), *fusion.named_parameters()], found, strict=True):
        assert gradient.abs().max() > 1e-3, f"no gradient reaches {label}"


@pytest.mark.parametrize("name", [name for name in NAMES if not FUSIONS[name].needs_task])
def test_a_zero_context_leaves_a_path_for_the_observation(name: str) -> None:
    """A context that starts with the code of a task is never zero."""
    fusion = build(name, 5, 4, 6, free=40)
    x = draw(1, 5).requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda x: fusion(x, torch.zeros(1, 4, dtype=x.dtype)), x)
    # `moore` reads the direction of x alone, because its experts start without a constant.
    assert torch.linalg.matrix_rank(jacobian[0, :, 0]) == (4 if name == "moore" else 5)


@pytest.mark.parametrize("name", NAMES)
def test_works_without_a_context(name: str) -> None:
    fusion = build(name, 5, 0, 6)
    x = draw(7, 5)
    by_segment = fusion.modulate(x, fusion.condition(draw(1, 0)), Segments(torch.zeros(7, dtype=torch.long), 1))
    torch.testing.assert_close(by_segment, fusion(x, draw(7, 0)))
    assert 0.2 < fusion(draw(500, 5), draw(500, 0)).var().item() < 5
    gradient = torch.autograd.grad(by_segment.sum(), list(fusion.parameters()), allow_unused=True)
    assert all(found is not None for found in gradient)


def test_concat_is_a_linear_layer_on_both_inputs() -> None:
    fusion = disturbed(build("concat", 5, 4, 6))
    linear = torch.nn.Linear(9, 6).double()
    with torch.no_grad():
        linear.weight.copy_(torch.cat([fusion.V, fusion.U], dim=1))
        linear.bias.copy_(fusion.b)
    x, z = draw(7, 5), draw(7, 4)
    torch.testing.assert_close(fusion(x, z), linear(torch.cat([x, z], dim=1)))


def test_film_starts_as_a_linear_layer() -> None:
    fusion = build("film", 5, 4, 6)
    assert isinstance(fusion, FiLM)
    x, z = draw(7, 5), draw(7, 4)
    torch.testing.assert_close(fusion(x, torch.zeros_like(z)), F.linear(x, fusion.V))
    torch.testing.assert_close(fusion(x, z), F.linear(x, fusion.V), rtol=0.6, atol=0.6)


def test_mi_on_task_ids_is_one_head_for_each_task() -> None:
    tasks = torch.tensor([2, 0, 0, 1, 2])
    fusion = disturbed(build("mi", 5, 3, 6))
    x, z = draw(5, 5), F.one_hot(torch.arange(3)).double()
    heads = [torch.nn.Linear(5, 6).double() for _ in range(3)]
    with torch.no_grad():
        for task, head in enumerate(heads):
            head.weight.copy_(fusion.W[task].view(6, 5) / 3**0.5 + fusion.V)
            head.bias.copy_(fusion.U[task] + fusion.b)
    expected = torch.stack([heads[task](row) for task, row in zip(tasks.tolist(), x, strict=True)])
    torch.testing.assert_close(fusion.modulate(x, fusion.condition(z), Segments(tasks, 3)), expected)


def test_identity_segments_give_every_sample_its_own_context() -> None:
    segments = identity_segments(4)
    modulation = draw(4, 2)
    assert segments.count == 4 and segments.grid.width == 1
    assert torch.equal(segments.rows(modulation), modulation)
