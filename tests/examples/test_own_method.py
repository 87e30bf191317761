"""What every method must do, of the method in examples/own_method.py: the tests of ``tests/methods`` with another fixture."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from tests.methods.test_contract import *  # noqa: F403
from tests.methods.test_contract import WIDTH

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_method.py"


@pytest.fixture
def method():
    names = runpy.run_path(str(EXAMPLE))
    torch.manual_seed(0)
    made = names["Camps"](names["CampsConfig"](), WIDTH)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made
