"""Several processes that share a batch do what one would do with the whole of it, whatever the paper."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from tests.papers.shared_gradients import CASES, HALVES, IMAGES, gradients

REPOSITORY = Path(__file__).resolve().parents[2]
WHOLE = slice(len(IMAGES))
RANDOM = "hide_and_seek", "introspection"  # each process draws for its own images what one would draw for the batch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """The gradients of two processes, each with half of the batch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    file = tmp_path_factory.mktemp("processes") / "gradients.pt"
    subprocess.run(
        [*command, "-m", "tests.papers.shared_gradients", str(file)],
        cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return torch.load(file)


@pytest.mark.parametrize("name", [name for name in CASES if name not in RANDOM])
def test_two_processes_have_the_gradients_of_one(of_two, name):
    """Also where one of them has no label, no mask, no pair."""
    check(of_two[name], gradients(Accelerator(cpu=True), CASES[name], WHOLE))


@pytest.mark.parametrize("name", RANDOM)
def test_two_processes_have_the_mean_of_both_halves(of_two, name):
    first, second = (gradients(Accelerator(cpu=True), CASES[name], own) for own in HALVES)
    check(of_two[name], {key: (first[key] + second[key]) / 2 for key in first})


def check(found, expected):
    assert found.keys() == expected.keys()
    assert any(gradient.any() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
