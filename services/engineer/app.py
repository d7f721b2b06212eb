"""Builds the engineer: one sandbox, the Checker service, and a worker for each stage."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.archive.artifacts import FsspecArtifacts
from services.chassis.bus.topology import engineer_durable
from services.chassis.errors import SettingsError
from services.chassis.logs import get_logger
from services.chassis.rpc import channel
from services.chassis.service import Service
from services.contracts import archive_pb2_grpc, checker_pb2, checker_pb2_grpc
from services.engineer.checker import CheckerService
from services.engineer.evaluation.tasks import EvaluationUnavailable, require_tasks
from services.engineer.handlers import Engineer
from services.engineer.scales import ScaleError, load_scale
from services.engineer.settings import EngineerSettings
from services.engineer.stages import Stages
from services.llm.minds import Minds
from services.sandbox import Sandbox


@asynccontextmanager
async def build(service: Service, settings: EngineerSettings) -> AsyncIterator[None]:
    """Start the sandbox and serve the stages. Raises SettingsError if a stage's tasks cannot be loaded."""
    await _preflight(settings)
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


async def _preflight(settings: EngineerSettings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=settings.data_dir).close()
    except OSError as error:
        raise SettingsError(f"ASI_DATA_DIR={settings.data_dir} cannot be written: {error.strerror}.") from None
    overrides = {"tasks": settings.tasks, "task_path": settings.task_path}
    for stage in settings.stage_names:
        try:
            scale = load_scale(stage, {name: value for name, value in overrides.items() if value is not None})
            await asyncio.to_thread(require_tasks, scale)
        except ScaleError as error:
            raise SettingsError(f"ASI_ENGINEER_TASKS={settings.tasks}: {error}") from None
        except EvaluationUnavailable as unavailable:
            raise SettingsError(f"ASI_ENGINEER_STAGES={settings.stages}: {unavailable}") from None
