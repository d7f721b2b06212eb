"""Settings of the engineer."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from services.chassis.settings import ServiceSettings
from services.engineer.scales import SCALES, load_scale


class EngineerSettings(ServiceSettings):
    """Variables of the engineer begin with ASI_ENGINEER_."""

    stages: str = Field(
        "tiny", description="comma-separated stages that this machine trains: mini, tiny, explore, verify, final"
    )
    tasks: str | None = Field(
        None, description="comma-separated benchmarks whose data is loaded at the start; default: those of its stages"
    )
    task_path: str | None = Field(None, description="folder with task files of lm-evaluation-harness")
    parallel: int | None = Field(
        None, ge=1, description="concurrent trainings per stage; default: one per core, or the scale's on a GPU"
    )
    keep_weights: bool = Field(False, description="keep final weights as artifacts, for `asi-arch export --as module`")
    idle_seconds: float | None = Field(
        None, gt=0, description="seconds without work after which the engineer exits; default: never"
    )
    text_seed: SecretStr | None = Field(
        None,
        description="seed of held-out text and questions, the same for all engineers of a run; default: drawn once and "
        "stored in the data folder",
    )
    check_slots: int = Field(2, ge=1, description="concurrent checks")
    mps: Path | None = Field(
        None,
        description="pipe folder of a running NVIDIA MPS daemon, for trainings that share a GPU; programs can access "
        "the daemon, and a crash of its server ends all trainings; default: trainings take turns on the GPU",
    )
    device: Literal["cpu", "cuda"] | None = Field(None, description="cpu or cuda; default: the scale's device")

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
