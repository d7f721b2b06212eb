"""Logs for tests of the store."""

import pytest

from tests.store.simulation import Simulation


@pytest.fixture
def finished() -> Simulation:
    """A whole run: two baselines and six proposals, one of which is rejected in the end."""
    simulation = Simulation()
    simulation.start()
    return simulation.finish()
