"""What a run costs on the machine that will train it, and what it decides by that before it starts."""

import grpc.aio

from services.chassis.errors import SettingsError
from services.chassis.rpc import channel
from services.console.settings import ConsoleSettings
from services.contracts import checker_pb2, checker_pb2_grpc
from services.contracts import events_pb2 as pb

PROFILE_SECONDS = 120.0
PRECISION = "precision"


async def settle(client: ConsoleSettings, settings: pb.RunSettings, patience: float = PROFILE_SECONDS) -> str | None:
    """Write the decision of the machine that trains into the run's settings: a sentence to show, or None.

    Where no engineer answers, the precision stays open: each engineer then decides for itself, and results of different
    precision are not compared. Raises SettingsError where the engineer refuses the scale.
    """
    if PRECISION in settings.scale_overrides:
        return None
    request = checker_pb2.ScaleRequest(stage=settings.scale, scale_overrides=settings.scale_overrides)
    async with channel(client.checker_address, client) as connection:
        try:
            profile = await checker_pb2_grpc.CheckerStub(connection).Profile(request, timeout=patience)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                raise SettingsError(f"--set: {error.details()}") from None
            return "no engineer answers: each decides about its precision, and results of different ones are not ranked"
    settings.scale_overrides[PRECISION] = profile.precision
    return f"training in {profile.precision} (measured on the engineer's machine; --set precision=… to choose)"
