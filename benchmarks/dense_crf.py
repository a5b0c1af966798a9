"""How closely the CRF in torch agrees with pydensecrf on photographs, and what it costs: ratio of the seconds.

Beside them, on a small crop, the sum over all pairs of pixels, which both approximate by the same lattice.
"""

import time

import torch
from skimage import data
from torch.nn import functional as F

from wsl_core.refine import DEEPLAB, PARAMETERS, CRFParameters, dense_crf

PHOTOGRAPHS = {"astronaut": data.astronaut, "cat": data.chelsea, "coffee": data.coffee}
SETS = {"affinitynet": PARAMETERS["affinitynet"], "irn": PARAMETERS["irn"], "deeplab": DEEPLAB}
LABELS, SHRUNK, CROP = 4, 2, 48


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch beside pydensecrf, photographs {SHRUNK} times smaller, {LABELS} labels, on one core; probabilities")
    for photograph in PHOTOGRAPHS:
        image, probabilities = scene(photograph)
        for name, parameters in SETS.items():
            ours, seconds = timed(image, probabilities, "torch", parameters)
            theirs, peer = timed(image, probabilities, "pydensecrf", parameters)
            print(f"  {photograph:9} {name:11} {compared(ours, theirs)}   {seconds:.2f} s, ratio {seconds / peer:.1f}")
    print(f"both beside the sum over all pairs of {CROP} x {CROP} pixels")
    for name, parameters in SETS.items():
        image, probabilities = (whole[:, :CROP, -CROP:] for whole in scene("cat"))
        exact = over_all_pairs(image, probabilities, parameters)
        for backend in ("torch", "pydensecrf"):
            print(f"  {backend:10} {name:11} {compared(dense_crf(image, probabilities, backend, parameters), exact)}")


def scene(photograph: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A photograph, and probabilities that know little: smooth, with noise."""
    torch.manual_seed(0)
    image = F.avg_pool2d(torch.from_numpy(PHOTOGRAPHS[photograph]()).movedim(-1, 0) / 255, SHRUNK)
    scores = F.interpolate(torch.randn(1, LABELS, 9, 9), image.shape[1:], mode="bilinear")[0]
    return image, (2 * scores + torch.randn(scores.shape)).softmax(dim=0)


def compared(found: torch.Tensor, expected: torch.Tensor) -> str:
    apart, agree = (found - expected).abs(), (found.argmax(dim=0) == expected.argmax(dim=0)).double().mean()
    return f"apart: mean {apart.mean():.1e}, max {apart.max():.1e}; same label at {100 * agree:.3f} % of the pixels"


def over_all_pairs(image: torch.Tensor, probabilities: torch.Tensor, parameters: CRFParameters) -> torch.Tensor:
    """Mean-field inference with the kernels written out, (N, N)."""
    size = image.shape[1:]
    position = torch.cartesian_prod(*(torch.arange(float(side)) for side in size))
    colour = (255 * image).round().flatten(1).T
    near = position / parameters.position_sxy
    alike = torch.cat([position / parameters.bilateral_sxy, colour / parameters.bilateral_srgb], dim=1)
    kernel = torch.zeros(len(near), len(near))
    for features, weight in ((near, parameters.position_weight), (alike, parameters.bilateral_weight)):
        pairs = (-torch.cdist(features, features).square() / 2).exp()
        norm = pairs.sum(dim=1).rsqrt()
        kernel += weight * norm[:, None] * pairs * norm
    known = probabilities.clamp(min=1e-5).log().flatten(1)
    beliefs = known.softmax(dim=0)
    for _ in range(parameters.iterations):
        beliefs = (known + beliefs @ kernel).softmax(dim=0)
    return beliefs.view(-1, *size)


def timed(image, probabilities, backend, parameters) -> tuple[torch.Tensor, float]:
    """The result, and the processor time."""
    start = time.process_time()
    refined = dense_crf(image, probabilities, backend, parameters)
    return refined, time.process_time() - start


if __name__ == "__main__":
    main()
