"""SmolLM2, for the tests that measure it."""

import pytest

from residual import smollm2


@pytest.fixture(scope="module")
def model():
    try:
        return smollm2()[0]
    except ModuleNotFoundError as problem:
        pytest.skip(str(problem))
