r"""Two random views of one image, and where each place of one view lies in the other.

Novotny et al. (CVPR 2018) learn descriptors from them: neither view is the image itself, since the traces of
interpolation would tell the two apart. Each view is continued beyond the image's border by its mirror image, up to
twice the image's size, and zooms in more often than out. The sources disagree whether the paper's warps are affine or
projective, and give no ranges: those here are ours.

A view's warp says where on the image its places come from. That way is closed, as the drawing of a view needs it. The
way back is closed for a homography; a bend is undone by iteration, and what has not converged is not valid.

Every position is in pixels, x before y; pixel (0, 0) covers [0, 1) x [0, 1). A view has the size of its image.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from kornia.enhance import adjust_brightness, adjust_contrast, adjust_gamma, adjust_hue, adjust_saturation
from kornia.geometry.linalg import transform_points
from kornia.geometry.transform import get_tps_transform, warp_points_tps
from torch import Tensor
from torch.nn import functional as F

from wsl_core.errors import UsageError

__all__ = ["KINDS", "Views", "Warp", "correspond", "random_warps", "recolor", "two_views"]

KINDS = ("affine", "projective", "thin-plate")
# Ranges. Lengths are shares of half the image: its centre is 0, its borders are -1 and 1.
ZOOM_OUT, ZOOM_IN = 0.15, 0.85  # in octaves: from 1.1 times the image down to 0.55 of it
STRETCH = 0.15  # logarithm of one axis' length, the other's being its inverse
SHEAR = 0.15
TURN = math.pi / 6
MOVE = 0.25
PERSPECTIVE = 0.15
BEND = 0.08  # of each point of a 3 x 3 lattice; far from folding the view over
HUE, SATURATION, GAIN, OFFSET, GAMMA = math.pi / 10, 0.4, 0.3, 0.1, 0.3

PADDED = 2  # times the image's size
UNBENDING_STEPS = 8  # the slope of a bend stays below a third, and with each step the error shrinks as much
UNBENT = 0.005  # pixels that a point may miss itself by: it is then within 0.01 pixel of where it belongs


class Warp(NamedTuple):
    """Where on its image each place of a view comes from: first bent, then sent through a homography.

    Both are in shares of half the image, see :func:`random_warps`. Of each image of a batch one.
    """

    homography: Float[Tensor, "B 3 3"]
    bend: Float[Tensor, "B 9 2"] | None  # by how much the points of a 3 x 3 lattice are moved
    size: tuple[int, int]  # height and width of the images

    def to_image(self, points: Float[Tensor, "B N 2"]) -> Float[Tensor, "B N 2"]:
        """Where on the image places of the view come from, also beyond its borders.

        >>> warp = Warp(torch.diag(torch.tensor([0.5, 0.5, 1.0]))[None], None, (40, 60))  # zooms in
        >>> warp.to_image(torch.tensor([[[30.0, 20.0], [0.0, 0.0]]])).tolist()
        [[[30.0, 20.0], [15.0, 10.0]]]
        """
        places = self._shares(points)
        if self.bend is not None:
            places = warp_points_tps(places, *self._spline())
        return self._pixels(transform_points(self.homography, places))

    def to_view(self, points: Float[Tensor, "B N 2"]) -> tuple[Float[Tensor, "B N 2"], Bool[Tensor, "B N"]]:
        """Undo :meth:`to_image`: where places of the image are in the view, and whether they have been found there.

        >>> warp = Warp(torch.diag(torch.tensor([0.5, 0.5, 1.0]))[None], None, (40, 60))
        >>> warp.to_view(torch.tensor([[[15.0, 10.0], [0.0, 0.0]]]))
        (tensor([[[  0.,   0.],
                 [-30., -20.]]]), tensor([[ True, False]]))
        """
        inverse, _ = torch.linalg.inv_ex(self.homography)  # inv would make the host wait for the device
        bent = transform_points(inverse, self._shares(points))
        places, missed = bent, torch.zeros_like(bent)
        if self.bend is not None:
            spline = self._spline()
            for _ in range(UNBENDING_STEPS):
                # Places far from the view are not in it, wherever the spline would send them.
                places = (places + bent - warp_points_tps(places, *spline)).clamp(-PADDED, PADDED)
            missed = warp_points_tps(places, *spline) - bent
        converged = torch.linalg.vector_norm(missed * self._half(missed), dim=-1) <= UNBENT
        return self._pixels(places), converged & (places.abs() <= 1).all(dim=-1)

    def draw(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The views: colours are interpolated bilinearly, beyond its border the image is mirrored.

        >>> images = torch.rand(1, 3, 8, 8)
        >>> torch.allclose(Warp(torch.eye(3)[None], None, (8, 8)).draw(images), images, atol=1e-5)
        True
        """
        height, width = self.size
        y, x = (torch.arange(pixels, device=images.device) + 0.5 for pixels in self.size)
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1).to(images)
        places = self._shares(self.to_image(centres.expand(len(images), -1, -1))).unflatten(1, (height, width))
        return F.grid_sample(images, places, padding_mode="reflection", align_corners=False)

    def _half(self, like: Tensor) -> Float[Tensor, "2"]:
        return like.new_tensor(self.size[::-1]) / 2  # of the width, of the height

    def _shares(self, pixels: Float[Tensor, "*places 2"]) -> Float[Tensor, "*places 2"]:
        return pixels / self._half(pixels) - 1

    def _pixels(self, shares: Float[Tensor, "*places 2"]) -> Float[Tensor, "*places 2"]:
        return (shares + 1) * self._half(shares)

    def _spline(self) -> tuple[Tensor, Tensor, Tensor]:
        """The thin-plate spline that moves the lattice, as kornia's ``warp_points_tps`` takes it."""
        side = torch.linspace(-1, 1, 3, dtype=self.bend.dtype, device=self.bend.device)
        lattice = torch.cartesian_prod(side, side).expand_as(self.bend)
        return lattice + self.bend, *get_tps_transform(lattice, lattice + self.bend)


class Views(NamedTuple):
    """Each image seen twice."""

    a: Float[Tensor, "B 3 H W"]
    b: Float[Tensor, "B 3 H W"]
    warp_a: Warp
    warp_b: Warp


def random_warps(
    images: Float[Tensor, "B 3 H W"], kind: str = "projective", generator: torch.Generator | None = None
) -> Warp:
    r"""A random warp for each image, on its device.

    - ``"affine"``: zoom, stretch, shear, turn and move.
    - ``"projective"``: the same behind a change of perspective.
    - ``"thin-plate"``: the same behind a bend, a thin-plate spline through a 3 x 3 lattice that is moved at random.

    Args:
        images: only their number, size, device and type count.
        kind: one of ``KINDS``.
        generator: on the CPU; ``None`` takes torch's.

    Raises:
        UsageError: ``kind`` is unknown.

    >>> warp = random_warps(torch.zeros(2, 3, 20, 30), "affine", generator=torch.Generator().manual_seed(0))
    >>> warp.homography.shape, warp.homography[:, 2].tolist(), warp.bend
    (torch.Size([2, 3, 3]), [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]], None)
    """
    if kind not in KINDS:
        raise UsageError(f"warps={kind!r} is unknown; expected one of {', '.join(KINDS)}.")
    count, size = len(images), (images.shape[-2], images.shape[-1])

    def draw(*shape: int) -> Tensor:
        return (2 * torch.rand(count, *shape, generator=generator) - 1).to(images)

    octaves = ((ZOOM_OUT + ZOOM_IN) * draw() + ZOOM_OUT - ZOOM_IN) / 2
    stretch, shear, turn = STRETCH * draw(), SHEAR * draw(), TURN * draw()
    one, zero = torch.ones_like(turn), torch.zeros_like(turn)
    stretched = _matrices([[stretch.exp(), shear], [zero, (-stretch).exp()]])
    turned = _matrices([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]])
    homography = F.pad(torch.exp2(octaves)[:, None, None] * (_in_frame(turned, size) @ stretched), (0, 1, 0, 1))
    homography[:, :2, 2], homography[:, 2, 2] = MOVE * draw(2), 1
    if kind == "projective":
        across, down = (PERSPECTIVE * draw(2)).unbind(dim=1)
        homography = homography @ _matrices([[one, zero, zero], [zero, one, zero], [across, down, one]])
    return Warp(homography, BEND * draw(9, 2) if kind == "thin-plate" else None, size)


def recolor(images: Float[Tensor, "B 3 H W"], generator: torch.Generator | None = None) -> Float[Tensor, "B 3 H W"]:
    """Other colours and another light, for each image its own: hue, saturation, gain, offset and gamma.

    Args:
        images: RGB in [0, 1].
        generator: on the CPU; ``None`` takes torch's.

    >>> grey = recolor(torch.full((1, 3, 2, 2), 0.5))  # has no hue: what changes is the light
    >>> torch.allclose(grey, grey[:, :1, :1, :1].expand_as(grey))
    True
    """
    hue, saturation, gain, offset, gamma = (2 * torch.rand(5, len(images), generator=generator) - 1).to(images)
    images = adjust_saturation(adjust_hue(images, HUE * hue), 1 + SATURATION * saturation)
    images = adjust_brightness(adjust_contrast(images, 1 + GAIN * gain), OFFSET * offset)  # kornia: times, plus
    return adjust_gamma(images, 1 + GAMMA * gamma)


@torch.no_grad()
def two_views(
    images: Float[Tensor, "B 3 H W"], kind: str = "projective", generator: torch.Generator | None = None
) -> Views:
    """Two warps of each image in colours of their own; neither view is the image itself.

    Args:
        images: RGB in [0, 1].
        kind: of the warps, one of ``KINDS``.
        generator: on the CPU; ``None`` takes torch's.

    Raises:
        UsageError: ``kind`` is unknown.

    >>> views = two_views(torch.rand(2, 3, 16, 24))
    >>> views.a.shape, torch.equal(views.a, views.b)
    (torch.Size([2, 3, 16, 24]), False)
    """
    warps = [random_warps(images, kind, generator=generator) for _ in range(2)]
    return Views(*(recolor(warp.draw(images), generator) for warp in warps), *warps)


@torch.no_grad()
def correspond(points: Float[Tensor, "B N 2"], a: Warp, b: Warp) -> tuple[Float[Tensor, "B N 2"], Bool[Tensor, "B N"]]:
    """Where places of view a lie in view b, $g(u)$, and which of them do.

    Valid are those that fall into view b, and come from the image or from its mirror images out to twice its size:
    farther off, what repeats would be matched with itself.

    >>> warps = [Warp(torch.eye(3)[None], None, (10, 10)) for _ in range(2)]
    >>> warps[1].homography[0, 0, 2] = 0.4  # view b looks 2 pixels further to the right
    >>> correspond(torch.tensor([[[5.0, 5.0], [1.0, 5.0]]]), *warps)[1].tolist()
    [[True, False]]
    """
    on_image = a.to_image(points)
    positions, found = b.to_view(on_image)
    return positions, found & (a._shares(on_image).abs() <= PADDED).all(dim=-1)


def _matrices(rows: list[list[Tensor]]) -> Float[Tensor, "B m n"]:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _in_frame(turned: Float[Tensor, "B 2 2"], size: tuple[int, int]) -> Float[Tensor, "B 2 2"]:
    """A turn in pixels as a matrix on shares of half the width and half the height."""
    half = turned.new_tensor(size[::-1])
    return turned * half / half[:, None]
