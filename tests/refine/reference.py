"""What AffinityNet's released code returned on given inputs."""

import numpy as np
import pytest
import torch

from tests.conftest import REPOSITORY

REFERENCE = REPOSITORY.parent / "shared" / "reference" / "psa_dev.npz"


def psa() -> dict[str, torch.Tensor]:
    """The arrays of the reference; a test that asks for them is skipped where there are none."""
    if not REFERENCE.exists():
        pytest.skip("no reference values: there is no shared/reference beside the repository")
    with np.load(REFERENCE) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive}


def taken_by_official(values: torch.Tensor, radius: int = 5) -> torch.Tensor:
    """(O, h, w) without what the released code leaves out, as it lists the pairs: (O, cells)."""
    return values[:, : 1 - radius, radius - 1 : 1 - radius].flatten(1)
