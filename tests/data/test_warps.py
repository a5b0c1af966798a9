"""Two views of an image: where places go, that they come back, and that the pictures agree with the positions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from wsl_core.data import warps
from wsl_core.data.warps import KINDS, Warp, correspond, random_warps, recolor, two_views
from wsl_core.errors import UsageError

SIZE = (60, 90)  # height, width


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blank(count=2, size=SIZE, dtype=torch.float32):
    return torch.zeros(count, 3, *size, dtype=dtype)


def identity(size=SIZE, bend=None):
    return Warp(torch.eye(3)[None], bend, size)


def shifted(x, y=0.0):
    """A view that looks ``x`` pixels further to the right and ``y`` further down."""
    homography = torch.eye(3)[None].clone()
    homography[0, 0, 2], homography[0, 1, 2] = 2 * x / SIZE[1], 2 * y / SIZE[0]
    return Warp(homography, None, SIZE)


def anywhere(count=2, points=400, size=SIZE, dtype=torch.float32):
    return torch.rand(count, points, 2, generator=seeded(9), dtype=dtype) * torch.tensor(size[::-1], dtype=dtype)


# ---- positions


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS), st.integers(0, 10_000), st.sampled_from([(224, 224), (64, 96), (30, 17)]),
    st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_a_warp_followed_by_its_inverse_returns_the_point(kind, seed, size, dtype):
    warp = random_warps(blank(2, size, dtype), kind, seeded(seed))
    points = anywhere(size=size, dtype=dtype)
    back, found = warp.to_view(warp.to_image(points))
    assert found.all()
    assert (back - points).norm(dim=-1).max() < 0.01


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10_000))
def test_there_and_back_is_where_it_was(kind, seed):
    a, b = (random_warps(blank(), kind, seeded(seed + 1 + i)) for i in range(2))
    points = anywhere()
    there, valid = correspond(points, a, b)
    back, returned = correspond(there, b, a)
    assert valid.any() and returned[valid].all()
    assert (back - points).norm(dim=-1)[valid].max() < 0.02
    extent = torch.tensor(SIZE[::-1])
    assert ((there >= 0) & (there <= extent)).all(dim=-1)[valid].all()


@pytest.mark.parametrize("bend", [None, torch.zeros(1, 9, 2)])
def test_identity_warps_give_the_identity_correspondence(bend):
    points = anywhere(1)
    positions, valid = correspond(points, identity(bend=bend), identity(bend=bend))
    assert valid.all()
    torch.testing.assert_close(positions, points, rtol=0, atol=1e-4)
    images = torch.rand(1, 3, *SIZE, generator=seeded())
    torch.testing.assert_close(identity(bend=bend).draw(images), images, rtol=0, atol=1e-4)


def test_the_same_warp_twice_gives_the_identity_correspondence():
    for kind in KINDS:
        warp = random_warps(blank(), kind, seeded(3))
        positions, valid = correspond(anywhere(), warp, warp)
        assert (positions - anywhere()).norm(dim=-1)[valid].max() < 0.01
        assert valid.float().mean() > 0.9  # what is beyond the doubled image is not


def test_a_shift_moves_points_the_other_way_and_those_that_leave_are_invalid():
    points = torch.tensor([[[50.0, 30.0], [6.9, 30.0], [7.1, 30.0], [50.0, 58.0]]])
    positions, valid = correspond(points, identity(), shifted(7.0, -3.0))
    torch.testing.assert_close(positions[0, 0], torch.tensor([43.0, 33.0]))
    assert valid.tolist() == [[True, False, True, False]]


def test_what_comes_from_beyond_the_doubled_image_is_invalid():
    """45 pixels of mirror image to the right belong to it, and no more."""
    points = torch.tensor([[[40.0, 30.0], [46.0, 30.0]]])
    far = shifted(90.0)
    assert correspond(points, far, far)[1].tolist() == [[True, False]]


def test_what_has_not_converged_is_not_found():
    """A bend that moves places by more than their own distance is steeper than the iteration can undo."""
    side = torch.linspace(-1, 1, 3)
    steep = identity(bend=1.2 * torch.cartesian_prod(side, side)[None])
    centre = torch.tensor(SIZE[::-1]) / 2
    points = centre + torch.tensor([[[0.0, 0.0], [6.0, 3.0], [-9.0, 2.0]]])
    torch.testing.assert_close(steep.to_image(points), centre + 2.2 * (points - centre), rtol=1e-3, atol=1e-2)
    positions, found = steep.to_view(points)
    assert positions.isfinite().all() and found.tolist() == [[True, False, False]]


def test_a_turn_keeps_right_angles_on_images_that_are_not_square(monkeypatch):
    for name in ("ZOOM_OUT", "ZOOM_IN", "STRETCH", "SHEAR", "MOVE"):
        monkeypatch.setattr(warps, name, 0.0)
    warp = random_warps(blank(20), "affine", seeded())
    corners = torch.tensor([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0]]).expand(20, 3, 2)
    origin, right, down = warp.to_image(corners).unbind(dim=1)
    across, along = right - origin, down - origin
    torch.testing.assert_close((across * along).sum(dim=1), torch.zeros(20), rtol=0, atol=1e-2)
    for side in (across, along):
        torch.testing.assert_close(side.norm(dim=1), torch.full((20,), 30.0), rtol=1e-4, atol=0)
    angles = torch.atan2(across[:, 1], across[:, 0])
    assert angles.abs().max() <= math.pi / 6 + 1e-4 and angles.std() > 0.1


def test_views_zoom_in_more_often_than_out():
    areas = torch.linalg.det(random_warps(blank(400), "affine", seeded()).homography)
    assert areas.min() > 0.25 and areas.max() < 1.3
    assert (areas < 1).float().mean() > 0.7


@pytest.mark.parametrize(("kind", "straight"), [("affine", True), ("projective", True), ("thin-plate", False)])
def test_what_each_kind_keeps_straight(kind, straight):
    warp = random_warps(blank(), kind, seeded(1))
    line = torch.stack([torch.linspace(0, 90, 7), torch.linspace(10, 50, 7)], dim=-1).expand(2, 7, 2)
    sent = warp.to_image(line)
    along, away = sent[:, -1:] - sent[:, :1], sent - sent[:, :1]
    offset = (along[..., 0] * away[..., 1] - along[..., 1] * away[..., 0]).abs() / along.norm(dim=-1)
    assert (offset.max() < 1e-3) == straight
    steps = (sent[:, 1:] - sent[:, :-1]).norm(dim=-1)
    assert ((steps - steps[:, :1]).abs().max() < 1e-3) == (kind == "affine")


# ---- pictures


def smooth_image(size=SIZE):
    """Three gentle waves, which bilinear interpolation keeps."""
    y, x = (torch.arange(side) + 0.5 for side in size)
    waves = [torch.sin(x / 14)[None] * torch.cos(y / 11)[:, None], torch.cos(x / 17 + 1)[None] + 0 * y[:, None]]
    return torch.stack([*waves, torch.sin(y / 13)[:, None] + 0 * x[None]])[None] / 2.5 + 0.5


def colours(images, points):
    """Bilinearly at positions in pixels."""
    extent = torch.tensor(images.shape[:1:-1])
    return F.grid_sample(images, (2 * points / extent - 1)[:, None], padding_mode="border", align_corners=False)[
        :, :, 0
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_corresponding_places_have_the_same_colour(kind):
    images = smooth_image().expand(6, -1, -1, -1)
    a, b = (random_warps(images, kind, seeded(5 + i)) for i in range(2))
    points = 2 + anywhere(6) * (1 - 4 / torch.tensor(SIZE[::-1]))  # off the border, where nothing is interpolated
    positions, valid = correspond(points, a, b)
    inside = valid & ((positions > 2) & (positions < torch.tensor(SIZE[::-1]) - 2)).all(dim=-1)
    difference = (colours(a.draw(images), points) - colours(b.draw(images), positions)).abs().amax(dim=1)
    assert inside.float().mean() > 0.3
    assert difference[inside].max() < 0.02
    moved = (colours(a.draw(images), points) - colours(b.draw(images), positions + 4)).abs().amax(dim=1)
    assert moved[inside].mean() > 0.05  # the waves are not so gentle that nothing could be told


def test_beyond_the_border_lies_the_mirror_image():
    images = torch.rand(1, 3, *SIZE, generator=seeded())
    view = shifted(30.0).draw(images)
    torch.testing.assert_close(view[..., :60], images[..., 30:], rtol=0, atol=1e-4)
    torch.testing.assert_close(view[..., 60:], images[..., 60:].flip(-1), rtol=0, atol=1e-4)


def test_both_views_are_warped_and_recoloured():
    images = torch.rand(3, 3, *SIZE, generator=seeded())
    views = two_views(images, generator=seeded())
    for view, warp in ((views.a, views.warp_a), (views.b, views.warp_b)):
        assert (view - images).abs().mean(dim=(1, 2, 3)).min() > 0.05
        assert (warp.homography - torch.eye(3)).abs().amax(dim=(1, 2)).min() > 0.05
        assert (view - warp.draw(images)).abs().mean(dim=(1, 2, 3)).min() > 0.005
    assert not torch.allclose(views.warp_a.homography, views.warp_b.homography, atol=0.05)


def test_colours_change_image_by_image_and_stay_colours():
    images = torch.rand(1, 3, 5, 6, generator=seeded()).expand(8, -1, -1, -1)
    changed = recolor(images, seeded())
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 1
    assert len({round(one.mean().item(), 4) for one in changed}) == 8
    assert (changed - images).abs().mean(dim=(1, 2, 3)).min() > 0.005
    pixelwise = recolor(images[..., :1, :1], seeded())
    torch.testing.assert_close(pixelwise, changed[..., :1, :1])  # no place tells on another


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_alone_decides(kind):
    images = torch.rand(2, 3, 12, 16, generator=seeded())
    first, second, other = (two_views(images, kind, seeded(i)) for i in (4, 4, 5))
    assert torch.equal(first.a, second.a) and torch.equal(first.b, second.b)
    assert not torch.allclose(first.a, other.a)
    torch.manual_seed(4)
    of_torch = two_views(images, kind)
    assert torch.equal(of_torch.a, first.a) and torch.equal(of_torch.warp_b.homography, first.warp_b.homography)


def test_views_are_data_and_have_no_gradient():
    images = torch.rand(1, 3, 12, 16, requires_grad=True)
    assert not two_views(images).a.requires_grad


def test_an_unknown_kind():
    with pytest.raises(UsageError, match="warps='rigid' is unknown; expected one of affine, projective, thin-plate"):
        random_warps(blank(), "rigid")
