"""Builds the engineer: one sandbox, the Checker service, and a worker for each stage."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.archive.artifacts import FsspecArtifacts
from services.chassis.bus.topology import engineer_durable
from services.chassis.errors import SettingsError
from services.chassis.logs import get_logger
from services.chassis.rpc import channel
from services.chassis.service import Service
from services.chassis.settings import require_writable
from services.contracts import archive_pb2_grpc, checker_pb2, checker_pb2_grpc
from services.engineer.checker import CheckerService
from services.engineer.evaluation.tasks import EvaluationUnavailable, require_tasks
from services.engineer.handlers import Engineer
from services.engineer.scales import ScaleError, load_scale
from services.engineer.settings import EngineerSettings
from services.engineer.stages import Stages
from services.engineer.training.measurements import has_gpu
from services.llm.minds import Minds, require_minds
from services.sandbox import Sandbox


@asynccontextmanager
async def build(service: Service, settings: EngineerSettings) -> AsyncIterator[None]:
    """Start the sandbox and serve the stages."""
    async with Sandbox(mps=settings.mps) as sandbox, channel(settings.archive_address, settings) as archive:
        get_logger().info("sandbox", isolation=sandbox.level)
        seed = settings.text_seed.get_secret_value() if settings.text_seed else None
        stages = Stages(sandbox, settings.data_dir / "data", settings.device, seed)
        checker_pb2_grpc.add_CheckerServicer_to_server(
            CheckerService(stages, settings.check_slots, settings.trainings), service.server.grpc
        )
        service.rpc_names.append(checker_pb2.DESCRIPTOR.services_by_name["Checker"].full_name)
        stub = archive_pb2_grpc.ArchiveStub(archive)
        minds = Minds(service.name, service.bus, stub, settings.artifacts)
        weights = FsspecArtifacts(settings.artifacts) if settings.keep_weights else None
        engineer = Engineer(sandbox, stages, stub, minds, settings.data_dir, settings.trainings, weights)
        service.conditions["precision"] = lambda: not stages.unsuited
        for stage in settings.stage_names:
            await service.work(engineer_durable(stage), engineer.handle, settings.trainings(stage))
        if settings.idle_seconds is not None:
            service.tasks.append(_until_idle(service, settings.idle_seconds))
        yield
        await minds.close()


async def _until_idle(service: Service, seconds: float) -> None:
    """Return, which stops the service, after `seconds` without work."""
    idle_since = time.monotonic()
    while (idle := time.monotonic() - idle_since) < seconds:
        await asyncio.sleep(min(1.0, seconds - idle))
        if any(worker.busy for worker in service.workers):
            idle_since = time.monotonic()
    get_logger().info("nothing to do", seconds=seconds)


def require(settings: EngineerSettings) -> None:
    """Raises SettingsError for a folder that cannot be used, or a stage whose tasks cannot be loaded."""
    require_writable("ASI_DATA_DIR", settings.data_dir)
    require_minds(settings)
    if settings.mps is not None and not settings.mps.is_dir():
        raise SettingsError(
            f"ASI_ENGINEER_MPS={settings.mps} is no folder: name the pipe folder of a running MPS daemon, or unset it."
        )
    overrides = {"tasks": settings.tasks, "task_path": settings.task_path}
    if settings.device == "cuda" and not has_gpu():
        raise SettingsError("ASI_ENGINEER_DEVICE=cuda: torch finds no GPU here; set it to cpu, or unset it.")
    if settings.task_path is not None and not Path(settings.task_path).is_dir():
        raise SettingsError(f"ASI_ENGINEER_TASK_PATH={settings.task_path} is no folder: name one with task files.")
    for stage in settings.stage_names:
        try:
            scale = load_scale(stage, {name: value for name, value in overrides.items() if value is not None})
            require_tasks(scale)
        except ScaleError as error:
            raise SettingsError(f"ASI_ENGINEER_TASKS={settings.tasks}: {error}") from None
        except EvaluationUnavailable as unavailable:
            raise SettingsError(f"ASI_ENGINEER_STAGES={settings.stages}: {unavailable}") from None
