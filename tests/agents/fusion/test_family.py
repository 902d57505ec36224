"""The forms are one family: each equals the multiplicative interaction that it is read off as."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pairwise import pairwise
from test_fusion import NAMES, build, disturbed, draw
from torch.nn import functional as F  # noqa: N812

from agents.fusion import FUSIONS, OPTIONS
from agents.fusion.base import Fusion
from agents.fusion.spatial import SPATIAL_FUSIONS, SpatialFusion

LINEAR_IN_X = [name for name in NAMES if FUSIONS[name].linear_in_x]  # type: ignore[attr-defined]
AFFINE_IN_Z = [name for name in NAMES if FUSIONS[name].affine_in_z]  # type: ignore[attr-defined]
SMALL = {"kernel": 3, "keys": "position"}
SIZES = st.tuples(st.integers(1, 5), st.integers(0, 4), st.integers(1, 5), st.integers(1, 4))


def spatial(name: str, z_size: int = 4, shape: tuple[int, int, int] = (3, 2, 4), **options: object) -> SpatialFusion:
    torch.manual_seed(0)
    wanted = {option: SMALL[option] for option in OPTIONS.get(name, ())} | options
    return SPATIAL_FUSIONS[name](shape, z_size, **wanted).double()  # type: ignore[arg-type]


def test_properties_of_each_form() -> None:
    """Written out, so that a form cannot lose a property unnoticed."""
    assert set(NAMES) - set(LINEAR_IN_X) == {"concat_mlp", "cross_attention", "care", "soft_modularization", "moore"}
    assert set(LINEAR_IN_X) - set(AFFINE_IN_Z) == {"gated", "hypernetwork", "mixture"}
    assert {name for name in SPATIAL_FUSIONS if spatial(name).affine_in_z} == {"film", "dynamic_conv"}
    assert all(spatial(name).linear_in_x for name in SPATIAL_FUSIONS)
    assert not spatial("attention", keys="content").linear_in_x


@pytest.mark.parametrize("name", AFFINE_IN_Z)
@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_a_form_equals_its_full_mi(name: str, sizes: tuple[int, int, int, int], seed: int) -> None:
    x_size, z_size, out_size, free = sizes
    fusion = disturbed(build(name, x_size, z_size, out_size, free=free, seed=seed))
    dense = fusion.to_full_mi()
    assert [tuple(part.shape) for part in dense] == [
        (z_size, out_size, x_size),
        (z_size, out_size),
        (out_size, x_size),
        (out_size,),
    ]
    x, z = draw(6, x_size), draw(6, z_size)
    torch.testing.assert_close(fusion(x, z), dense(x, z))


@pytest.mark.parametrize("name", LINEAR_IN_X)
@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_a_form_equals_its_matrix_for_every_context(name: str, sizes: tuple[int, int, int, int], seed: int) -> None:
    x_size, z_size, out_size, free = sizes
    fusion = disturbed(build(name, x_size, z_size, out_size, free=free, seed=seed))
    check_affine_form(fusion, draw(6, x_size), draw(6, z_size))


@pytest.mark.parametrize(
    ("name", "z_size", "shape"), pairwise(sorted(SPATIAL_FUSIONS), (0, 1, 4), ((3, 2, 4), (1, 1, 1), (2, 5, 3)))
)
def test_a_spatial_form_equals_its_matrix(name: str, z_size: int, shape: tuple[int, int, int]) -> None:
    fusion = disturbed(spatial(name, z_size, shape))
    x, z = draw(6, *shape), draw(6, z_size)
    check_affine_form(fusion, x, z)
    if fusion.affine_in_z:
        torch.testing.assert_close(fusion(x, z).flatten(1), fusion.to_full_mi()(x.flatten(1), z))


def check_affine_form(fusion: Fusion, x: torch.Tensor, z: torch.Tensor) -> None:
    matrix, shift = fusion.affine_form(z)
    flat = x.flatten(1)
    torch.testing.assert_close(torch.einsum("nkx,nx->nk", matrix, flat) + shift, fusion(x, z).flatten(1))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in AFFINE_IN_Z])
def test_a_form_that_is_no_full_mi_raises(name: str) -> None:
    with pytest.raises(TypeError, match=r"not affine in z|not linear in x"):
        build(name, 5, 4, 6).to_full_mi()


def test_a_form_that_is_not_linear_in_x_has_no_matrix() -> None:
    for fusion in (build("concat_mlp", 5, 4, 6), spatial("attention", keys="content")):
        with pytest.raises(TypeError, match="not linear in x"):
            fusion.affine_form(draw(1, 4))


@pytest.mark.parametrize("name", ["mi", "concat", "sum"])
def test_the_second_difference_is_the_interaction_term(name: str) -> None:
    """y(x, z) - y(x, 0) - y(0, z) + y(0, 0) = z^T W x: what the two inputs do together, and nothing for additive forms."""
    fusion = disturbed(build(name, 5, 4, 6))
    x, z = draw(7, 5), draw(7, 4)
    no_x, no_z = torch.zeros_like(x), torch.zeros_like(z)
    difference = fusion(x, z) - fusion(x, no_z) - fusion(no_x, z) + fusion(no_x, no_z)
    expected = torch.zeros(7, 6, dtype=torch.float64)
    if name == "mi":
        expected = torch.einsum("nz,zkx,nx->nk", z, fusion.W.view(4, 6, 5) / 2, x)  # type: ignore[operator]
    torch.testing.assert_close(difference, expected)


def test_a_hypernetwork_without_its_nonlinearity_is_mi() -> None:
    """With all hidden units on, relu is the identity."""
    hyper, mi = build("hypernetwork", 5, 3, 6), build("mi", 5, 3, 6)
    with torch.no_grad():
        hyper.A.copy_(torch.eye(3))  # type: ignore[operator]
        for name in ("W", "U", "V", "b"):
            getattr(hyper, name).copy_(getattr(mi, name))
        # The context_norm differs: the root of 3 features, and of half of the 3 hidden units.
        hyper.W.mul_(0.5**0.5)  # type: ignore[operator]
    x, z = draw(7, 5), draw(7, 3).abs()
    torch.testing.assert_close(hyper(x, z), mi(x, z))


def test_a_mixture_with_one_expert_per_task_equals_one_head_per_task() -> None:
    fusion = disturbed(build("mixture", 5, 3, 6))
    with torch.no_grad():
        fusion.A.copy_(1000 * torch.eye(3))  # type: ignore[operator]
    x, task = draw(5, 5), torch.tensor([2, 0, 0, 1, 2])
    expected = torch.einsum("nkx,nx->nk", fusion.W.view(3, 6, 5)[task], x) + fusion.U[task]  # type: ignore[operator, index]
    torch.testing.assert_close(fusion(x, F.one_hot(task, 3).double()), expected)
