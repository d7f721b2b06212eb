"""Final weights as an artifact of a candidate's seed: kept where a setting asks for it."""

from collections.abc import Mapping

from safetensors.numpy import save

from services.chassis.artifacts import Artifacts
from services.contracts import candidate_pb2 as pb
from services.engineer.training.ports import Array

KIND = "weights"
_MODEL = "model/"  # before each name, as the training child sends them


async def keep_weights(artifacts: Artifacts, weights: Mapping[str, Array]) -> pb.Artifact:
    """Store parameters and buffers as one safetensors artifact."""
    return await artifacts.put(save({name.removeprefix(_MODEL): array for name, array in weights.items()}), KIND)
