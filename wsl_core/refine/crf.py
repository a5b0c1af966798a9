r"""The fully connected conditional random field: masks that follow the image's edges.

Krähenbühl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NIPS 2011. Every pixel
is tied to every other, strongly where they are close and of like colour. Mean-field inference repeats
$Q_i(l) \propto p_i(l) \exp(\sum_m w_m \sum_j \bar k_m(f_i, f_j)\, Q_j(l))$ with the Potts model, a Gaussian kernel of
position and one of position and colour, and $\bar k(f_i, f_j) = k(f_i, f_j) / (n_i n_j)^{1/2}$ with
$n_i = \sum_j k(f_i, f_j)$. As in the authors' code, the sums over j include i.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from multiprocessing import get_context

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wsl_core.data.base import to_bytes
from wsl_core.errors import DataError, UsageError
from wsl_core.refine.permutohedral import PermutohedralLattice

__all__ = ["BACKENDS", "DEEPLAB", "PARAMETERS", "CRFParameters", "dense_crf", "dense_crf_many"]

BACKENDS = ("auto", "pydensecrf", "torch")
FLOOR = 1e-5  # of a probability, as in pydensecrf's own helper: a zero would forbid a label whatever the image says
SUM_TOLERANCE = 1e-2  # wide enough for probabilities of 16 bits


@dataclass(frozen=True)
class CRFParameters:
    """The numbers of a dense CRF: standard deviations in pixels and in 8-bit levels, weights, iterations.

    Attributes:
        position_sxy, position_weight: of the kernel of position, which removes specks.
        bilateral_sxy, bilateral_srgb, bilateral_weight: of the kernel of position and colour.
        iterations: of mean-field inference; 0 gives back the probabilities.

    Raises:
        UsageError: a standard deviation is not above 0, or another number is below 0.

    >>> CRFParameters().shrunk(12).position_sxy
    0.25
    """

    position_sxy: float = 3.0
    position_weight: float = 3.0
    bilateral_sxy: float = 80.0
    bilateral_srgb: float = 13.0
    bilateral_weight: float = 10.0
    iterations: int = 10

    def __post_init__(self) -> None:
        for name in ("position_sxy", "bilateral_sxy", "bilateral_srgb"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name}={getattr(self, name)}: expected a finite number above 0.")
        for name in ("position_weight", "bilateral_weight", "iterations"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name}={getattr(self, name)}: expected a finite number, at least 0.")

    def shrunk(self, factor: float) -> "CRFParameters":
        """For maps ``factor`` times smaller than the image: distances shrink, colours stay."""
        return replace(self, position_sxy=self.position_sxy / factor, bilateral_sxy=self.bilateral_sxy / factor)


PARAMETERS = {
    "affinitynet": CRFParameters(),  # jiwoon-ahn/psa, tool/imutils.py
    "irn": CRFParameters(bilateral_sxy=50.0, bilateral_srgb=5.0),  # jiwoon-ahn/irn, misc/imutils.py
    "sec": CRFParameters(),  # SEC's released code at the size of the image; GAIN takes SEC's
}

# Behind a segmentation network: DeepLab v2 with ResNet-101 on VOC, kazuto1011/deeplab-pytorch, configs/voc12.yaml
DEEPLAB = CRFParameters(
    position_sxy=1.0, bilateral_sxy=67.0, bilateral_srgb=3.0, position_weight=3.0, bilateral_weight=4.0
)


def dense_crf(
    image: Float[Tensor, "*batch 3 H W"],
    probabilities: Float[Tensor, "*batch L H W"],
    backend: str = "auto",
    parameters: str | CRFParameters = "affinitynet",
) -> Float[Tensor, "*batch L H W"]:
    """Refine the label probabilities of every pixel by position and colour.

    Both backends filter on the same lattice, and their results differ by rounding, which the iterations can make large
    at a few undecided pixels. ``"pydensecrf"`` (Krähenbühl and Koltun's own code) takes the images one by one on the
    CPU, ``"torch"`` all at once on their device. The sums over all pairs themselves would take memory quadratic in the
    pixels; the lattice takes linear, and approximates them. Colours are rounded to 8 bits. No gradient passes.

    Args:
        image: RGB in [0, 1].
        probabilities: of L labels, background included; they sum to 1 at every pixel. Those below 1e-5 are lifted to
            it.
        backend: ``"pydensecrf"``, ``"torch"``, or ``"auto"``: pydensecrf where it is installed.
        parameters: a name of ``PARAMETERS``, or numbers of one's own.

    Returns:
        Probabilities, which sum to 1.

    Raises:
        UsageError: a backend or set of parameters is unknown or not installed, or the sizes differ.
        DataError: the image has values outside [0, 1], probabilities are negative or do not sum to 1, or either holds
            NaN.

    >>> image = torch.zeros(3, 8, 8)
    >>> image[:, :, 4:] = 1.0
    >>> probabilities = torch.full((2, 8, 8), 0.5)
    >>> probabilities[:, 2:6, 1] = torch.tensor([0.9, 0.1])[:, None]
    >>> probabilities[:, 2:6, 6] = torch.tensor([0.1, 0.9])[:, None]
    >>> dense_crf(image, probabilities).argmax(dim=0)[0].tolist()  # each half takes the label that is known in it
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    parameters = _named(parameters)
    backend = _available(backend)
    _check(image, probabilities)
    pixels = to_bytes(image.detach()).reshape(-1, *image.shape[-3:])
    energies = -probabilities.detach().float().clamp(min=FLOOR).log().reshape(-1, *probabilities.shape[-3:])
    if backend == "torch":
        refined = _mean_field(pixels, energies, parameters)
    else:
        images = zip(pixels.cpu().numpy(), energies.cpu().numpy(), strict=True)
        refined = torch.from_numpy(np.stack([_pydensecrf(*one, parameters) for one in images]))
    return refined.view_as(probabilities).to(probabilities)


def dense_crf_many(
    images: Iterable[Float[Tensor, "3 _ _"]],
    probabilities: Iterable[Float[Tensor, "L _ _"]],
    workers: int,
    backend: str = "auto",
    parameters: str | CRFParameters = "affinitynet",
) -> Iterator[Float[Tensor, "L _ _"]]:
    """:func:`dense_crf` of many images of any sizes, in order, by several processes.

    Images are asked for as they are needed, two for each worker, so that a whole data set can pass through.

    Args:
        workers: number of processes; 0 for none but this one.

    >>> image, flat = torch.rand(3, 6, 5), torch.full((2, 6, 5), 0.5)
    >>> [refined.shape for refined in dense_crf_many([image], [flat], workers=0)]
    [torch.Size([2, 6, 5])]
    """
    if workers < 0:
        raise UsageError(f"workers={workers}: expected 0 or more.")
    pairs = zip(images, probabilities, strict=True)
    if workers == 0:
        yield from (dense_crf(image, given, backend, parameters) for image, given in pairs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        waiting: deque[Future] = deque()
        for image, given in islice(pairs, 2 * workers):
            waiting.append(pool.submit(_dense_crf_of_arrays, image.numpy(), given.numpy(), backend, parameters))
        while waiting:
            yield torch.from_numpy(waiting.popleft().result())
            for image, given in islice(pairs, 1):
                waiting.append(pool.submit(_dense_crf_of_arrays, image.numpy(), given.numpy(), backend, parameters))


def _dense_crf_of_arrays(
    image: np.ndarray, probabilities: np.ndarray, backend: str, parameters: str | CRFParameters
) -> np.ndarray:
    """Arrays travel between processes cheaply."""
    return dense_crf(torch.from_numpy(image), torch.from_numpy(probabilities), backend, parameters).numpy()


def _mean_field(
    pixels: UInt8[Tensor, "B 3 H W"], energies: Float[Tensor, "B L H W"], parameters: CRFParameters
) -> Float[Tensor, "B L H W"]:
    height, width = pixels.shape[-2:]
    unary = energies.flatten(2).transpose(1, 2)  # (B, N, L)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    position = torch.stack([columns, rows], dim=-1).flatten(0, 1).to(unary).expand(len(pixels), -1, -1)  # (B, N, 2)
    colour = pixels.flatten(2).transpose(1, 2).to(unary)  # (B, N, 3)
    near = position / parameters.position_sxy
    alike = torch.cat([position / parameters.bilateral_sxy, colour / parameters.bilateral_srgb], dim=-1)
    kernels = [
        (parameters.position_weight, _NormalizedKernel(near)),
        (parameters.bilateral_weight, _NormalizedKernel(alike)),
    ]
    beliefs = (-unary).softmax(dim=-1)
    for _ in range(parameters.iterations):
        support = sum(weight * kernel(beliefs) for weight, kernel in kernels)
        beliefs = (support - unary).softmax(dim=-1)
    return beliefs.transpose(1, 2).reshape_as(energies)


class _NormalizedKernel:
    """A Gaussian kernel, divided by the roots of its row's and its column's sum."""

    def __init__(self, features: Float[Tensor, "B N d"]):
        self.lattice = PermutohedralLattice(features)
        self.norm = self.lattice.filter(torch.ones_like(features[..., :1])).rsqrt()  # (B, N, 1)

    def __call__(self, values: Float[Tensor, "B N L"]) -> Float[Tensor, "B N L"]:
        return self.norm * self.lattice.filter(self.norm * values)


def _pydensecrf(
    pixels: UInt8[np.ndarray, "3 H W"], energies: Float[np.ndarray, "L H W"], parameters: CRFParameters
) -> Float[np.ndarray, "L H W"]:
    from pydensecrf.densecrf import DenseCRF2D

    labels, height, width = energies.shape
    crf = DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(energies.reshape(labels, -1)))
    crf.addPairwiseGaussian(sxy=parameters.position_sxy, compat=parameters.position_weight)
    crf.addPairwiseBilateral(
        sxy=parameters.bilateral_sxy,
        srgb=parameters.bilateral_srgb,
        rgbim=np.ascontiguousarray(pixels.transpose(1, 2, 0)),
        compat=parameters.bilateral_weight,
    )
    return np.array(crf.inference(parameters.iterations), dtype=np.float32).reshape(energies.shape)


def _named(parameters: str | CRFParameters) -> CRFParameters:
    if isinstance(parameters, CRFParameters):
        return parameters
    if parameters not in PARAMETERS:
        raise UsageError(f"parameters={parameters!r} is unknown; expected one of {', '.join(PARAMETERS)}.")
    return PARAMETERS[parameters]


def _available(backend: str) -> str:
    if backend not in BACKENDS:
        raise UsageError(f"backend={backend!r} is unknown; expected one of {', '.join(BACKENDS)}.")
    installed = find_spec("pydensecrf") is not None
    if backend == "pydensecrf" and not installed:
        raise UsageError("backend='pydensecrf' is not installed; install wsl-core[crf], or take backend='torch'.")
    return ("pydensecrf" if installed else "torch") if backend == "auto" else backend


def _check(image: Tensor, probabilities: Tensor) -> None:
    expected = (*image.shape[:-3], probabilities.shape[-3], *image.shape[-2:])
    if tuple(probabilities.shape) != expected or image.shape[-3] != 3:
        raise UsageError(
            f"image {tuple(image.shape)} and probabilities {tuple(probabilities.shape)}: expected (..., 3, H, W) and "
            "(..., L, H, W) of the same size. Enlarge the maps to the image first."
        )
    if 0 in probabilities.shape:
        raise UsageError(f"probabilities: found {tuple(probabilities.shape)}; expected at least one pixel and label.")
    if not ((image >= 0) & (image <= 1)).all():
        raise DataError("image: found NaN or values outside [0, 1]; expected RGB in [0, 1].")
    if not (probabilities >= 0).all():
        raise DataError("probabilities: found NaN or negative values; expected those of a softmax.")
    sums = probabilities.float().sum(dim=-3)
    if not ((sums - 1).abs() < SUM_TOLERANCE).all():
        raise DataError(
            f"probabilities: found sums over labels from {float(sums.min()):.4g} to {float(sums.max()):.4g}; expected "
            "1. Divide the scores of each pixel by their sum."
        )
