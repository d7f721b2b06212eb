"""Settings of the engineer."""

import os
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from services.chassis.settings import ServiceSettings
from services.engineer.scales import SCALES, load_scale


class EngineerSettings(ServiceSettings):
    """Variables of the engineer begin with ASI_ENGINEER_."""

    stages: str = Field(
        "tiny", description="stages this machine trains, commas between: mini, tiny, explore, verify, final"
    )
    tasks: str | None = Field(
        None, description="benchmarks whose data must be there at the start, commas between; default: its stages' own"
    )
    task_path: str | None = Field(None, description="folder with task files of lm-evaluation-harness")
    parallel: int | None = Field(
        None, ge=1, description="trainings at once, per stage; default: one per core, and one where a GPU trains"
    )
    keep_weights: bool = Field(False, description="keep final weights as artifacts, for `asi-arch export --as module`")
    idle_seconds: float | None = Field(
        None, gt=0, description="end after so long without work, as a job should; default: wait for ever"
    )
    text_seed: SecretStr | None = Field(
        None,
        description="decides what is held out and asked; engineers of one run need the same; default: drawn once and "
        "kept in the data folder",
    )
    check_slots: int = Field(2, ge=1, description="checks at once")
    mps: Path | None = Field(
        None,
        description="pipe folder of a running NVIDIA MPS daemon, for trainings that share a GPU; programs can reach "
        "the daemon, and one that crashes its server ends the other trainings; default: they take turns on the GPU",
    )
    device: str | None = Field(None, pattern="^(cpu|cuda)$", description="default: what the scale says")

    @field_validator("stages")
    @classmethod
    def _validate_stages(cls, value: str) -> str:
        for stage in value.split(","):
            if stage.strip() not in SCALES:
                raise ValueError(f"{stage.strip()!r} is not a stage; choose from {', '.join(SCALES)}")
        return value

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages without duplicates."""
        return tuple(dict.fromkeys(stage.strip() for stage in self.stages.split(",")))

    def trainings(self, stage: str) -> int:
        """The number of concurrent trainings of a stage: `parallel`, else the scale's on a GPU, else one per core.

        A machine with several GPUs runs one engineer for each.
        """
        if self.parallel is not None:
            return self.parallel
        device = self.device or load_scale(stage).device
        return load_scale(stage).per_device if device == "cuda" else os.cpu_count() or 1
