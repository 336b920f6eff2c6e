import math

import pytest
import torch
from torch.autograd.functional import jacobian

from manykin.errors import InvalidInput, Unsupported
from manykin.spaces import Column, Image, Labels, Record, Table, Tokens, Vector, columns_of
from manykin.transforms import AsColumns, Chain, Dequantise, Flatten, Identity, Logit, Scale, Standardise, Support, bridge
from manykin.transforms.base import representative

REAL = Support((Vector,))


def make(transform, x):
    transform.fit(lambda: [x[: len(x) // 3], x[len(x) // 3 :]])
    return transform


def test_standardise_matches_the_plain_formula_and_streams():
    x = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1e-3, 1e4]) + 1e6
    transform = make(Standardise(Vector(3)), x)
    torch.testing.assert_close(transform.mean, x.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(transform.std, x.std(0, unbiased=False), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bounded", ["logit", "scale", "keep"])
def test_log_determinant_is_autograds(bounded):
    space = Vector(3, levels=6)
    transform = bridge(space, Support((Vector,), bounded=bounded))
    x = torch.randint(0, 6, (500, 3), generator=torch.Generator().manual_seed(1)).double()
    make(transform, x)
    assert isinstance(transform, Chain)
    smooth = transform.steps[1:]
    z = x[:1] + 0.37

    def rest(v):
        for step in smooth:
            v, _ = step(v)
        return v

    matrix = jacobian(rest, z).reshape(3, 3)
    ldj = sum(step(_before(smooth, z, i))[1] for i, step in enumerate(smooth))
    torch.testing.assert_close(ldj[0], torch.linalg.slogdet(matrix).logabsdet, rtol=1e-9, atol=1e-9)


def _before(steps, z, index):
    for step in list(steps)[:index]:
        z, _ = step(z)
    return z


GRIDS = [
    Vector(2),
    Vector(3, levels=4),
    Vector(2, step=(0.5, 0.0), low=(0.25, 0.0)),
    Image((2, 3, 3), 17),
    Image((1, 2, 2), 65536),
    Table((Column("a", "integer"), Column("b"), Column("c", "integer", low=-3, levels=7))),
]


@pytest.mark.parametrize("space", GRIDS, ids=str)
def test_inverse_returns_valid_data(space):
    g = torch.Generator().manual_seed(2)
    if isinstance(space, Image):
        x = torch.randint(0, space.levels, (200, *space.shape), generator=g).to(space.dtype)
    else:
        columns = space.columns
        x = torch.stack(
            [
                torch.randn(200, generator=g, dtype=torch.float64)
                if c.grid is None
                else c.low + c.grid * torch.randint(0, c.cardinality or 9, (200,), generator=g).double()
                for c in columns
            ],
            1,
        )
    transform = make(bridge(space, REAL), x)
    z, ldj = transform(x)
    assert torch.isfinite(z).all()
    assert ldj.shape == (200,)
    back = transform.inverse(z)
    torch.testing.assert_close(back.double(), x.double(), rtol=1e-9, atol=1e-9)
    far = transform.inverse(torch.randn_like(z.double()) * 100)
    space.validate(far)


def test_uniform_noise_costs_exactly_eight_bits():
    """Data of 256 equally likely levels under the uniform density on [0, 256) has log p = -log 256 a pixel, whatever the chain in between."""
    space = Image((1, 4, 4))
    x = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    transform = make(bridge(space, REAL), x)
    z, ldj = transform(x)
    base = transform.steps[0]
    smooth = [step for step in transform.steps if step is not base]
    u = z
    for step in reversed(smooth):
        u = step.inverse(u)
    # The density of z when u is uniform on [0, 256): log p(z) = -16 log 256 - ldj. In data space the two must cancel.
    log_p_z = -16 * math.log(256) - ldj
    torch.testing.assert_close((log_p_z + ldj) / (-16 * math.log(2)), torch.full((50,), 8.0, dtype=torch.float64))
    assert (u >= -1e-3).all()
    assert (u <= 256 + 1e-3).all()


def test_dequantisation_is_declared_as_a_bound_and_continuous_data_as_exact():
    assert bridge(Vector(2), REAL).exact
    assert not bridge(Vector(2, levels=3), REAL).exact
    assert isinstance(bridge(Vector(2), Support((Vector,), standardise=False)), Identity)


def test_constant_column_is_refused_and_constant_level_is_not():
    x = torch.stack([torch.randn(20), torch.full((20,), 1.5)], 1)
    with pytest.raises(InvalidInput, match=r"'x1' is constant \(always 1.5\)"):
        make(Standardise(Vector(2)), x)
    make(bridge(Vector(2, levels=3), REAL), torch.ones(20, 2))


@pytest.mark.parametrize(
    ("space", "support", "reason"),
    [
        (Tokens(4, 3), REAL, "works on Vector"),
        (Table((Column("c", "categorical", ("a",)),)), REAL, "'c' is categorical"),
        (Table((Column("r", missing=True),)), REAL, "missing values"),
        (Table((Column("r", missing=True),)), Support((Table,)), "cannot take missing values"),
        (Vector(2), Support((Image,)), "works on Image"),
        (Image((1, 2, 2), 4, ordinal=False), REAL, "4 codes.*codes without order, and this model works on numbers"),
    ],
)
def test_spaces_out_of_reach_say_why(space, support, reason):
    with pytest.raises(Unsupported, match=reason):
        bridge(space, support)


def test_records_become_columns_and_come_back():
    space = Record({"picture": Image((1, 2, 2), 4), "label": Labels(3)})
    transform = bridge(space, Support((Table,)))
    x = {"picture": torch.randint(0, 4, (6, 1, 2, 2), dtype=torch.uint8), "label": torch.randint(0, 3, (6,))}
    z, ldj = transform(x)
    assert isinstance(transform, AsColumns)
    assert z.shape == (6, 5)
    assert ldj.abs().sum() == 0
    back = transform.inverse(z)
    assert all(torch.equal(back[name], x[name]) for name in x)
    assert back["picture"].dtype == torch.uint8


def test_chain_fits_later_steps_behind_earlier_ones():
    space = Image((1, 2, 2), 8)
    x = torch.randint(0, 8, (4000, 1, 2, 2), dtype=torch.uint8)
    transform = make(bridge(space, REAL), x)
    z, _ = transform(x)
    assert z.mean().abs() < 0.05
    assert (z.std() - 1).abs() < 0.05
    assert transform.describe() == ["dequantise", "logit", "standardise", "flatten"]
    assert isinstance(transform.steps[-1], Flatten)


def test_scale_and_logit_leave_unbounded_entries_alone():
    for kind in (Scale, Logit):
        step = kind(Vector(2), [(0.0, 4.0), None])
        z, ldj = step(torch.tensor([[1.0, 7.0]]))
        assert z[0, 1] == 7
        assert torch.isfinite(ldj).all()
        assert step.inverse(z)[0, 1] == 7


def test_dequantise_stays_in_its_cell():
    space = Vector(2, step=(0.5, 0.0), low=(0.25, 0.0))
    x = torch.tensor([[0.75, 3.0]]).repeat(1000, 1)
    z, _ = Dequantise(space)(x)
    assert (z[:, 0] >= 0.75).all()
    assert (z[:, 0] < 1.25).all()
    assert (z[:, 1] == 3).all()


@pytest.mark.parametrize("bounded", ["logit", "scale", "keep"])
@pytest.mark.parametrize("space", [Image((3, 2000, 2000)), Image((1, 2000, 2000), None), Vector(4_000_000, levels=4)], ids=str)
def test_bridges_do_not_build_a_column_per_pixel(space, bounded, monkeypatch):
    built = []
    check = Column.__post_init__
    monkeypatch.setattr(Column, "__post_init__", lambda column: (built.append(1), check(column)))
    assert bridge(space, Support((Vector,), bounded=bounded)).target.shape == (math.prod(space.shape),)
    assert len(built) < 10


@pytest.mark.parametrize("space", [Image((1, 2, 3), 5), Vector(6, levels=5), Vector(6, step=(1.0,) * 6), Vector(6)], ids=str)
def test_one_column_stands_for_all(space):
    columns = columns_of(space)
    for column in representative(space):
        assert all((other.grid, other.origin, other.cardinality, other.kind) == (column.grid, column.origin, column.cardinality, column.kind)
                   for other in columns)  # fmt: skip


@pytest.mark.parametrize("bounded", ["logit", "scale"])
def test_one_bound_acts_like_a_bound_per_entry(bounded):
    x = torch.randint(0, 5, (20, 3), generator=torch.Generator().manual_seed(0)).double()
    kind = Logit if bounded == "logit" else Scale
    one, many = kind(Vector(3), [(0.0, 5.0)]), kind(Vector(3), [(0.0, 5.0)] * 3)
    for a, b in zip(one(x + 0.5), many(x + 0.5), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(one.inverse(one(x + 0.5)[0]), many.inverse(many(x + 0.5)[0]))


def test_columns_keep_their_names_through_dequantisation():
    assert Dequantise(Vector(2, levels=3, names=("a", "b"))).target == Vector(2, names=("a", "b"))
    assert Dequantise(Table((Column("a", step=0.5), Column("b")))).target == Vector(2, names=("a", "b"))
