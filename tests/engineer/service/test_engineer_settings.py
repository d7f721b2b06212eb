"""What an engineer takes on at once."""

import os

import pytest
from pydantic import ValidationError

from services.engineer.settings import EngineerSettings


def test_a_cpu_trains_one_candidate_per_core_and_a_gpu_one_at_a_time() -> None:
    """Two trainings on one GPU would each be too slow for the watcher and spoil each other's measurements."""
    settings = EngineerSettings(stages="tiny,explore")

    assert settings.stage_names == ("tiny", "explore")
    assert settings.trainings("tiny") == os.cpu_count()
    assert settings.trainings("explore") == 1
    assert EngineerSettings(device="cuda").trainings("tiny") == 1
    assert EngineerSettings(parallel=3).trainings("explore") == 3


def test_an_unknown_stage_is_refused_by_name() -> None:
    """Before anything starts."""
    with pytest.raises(ValidationError, match="'huge' is not a stage"):
        EngineerSettings(stages="tiny,huge")
