"""From what a child said of itself and what the host saw to the measurements of a result."""

from statistics import median

from services.engineer.training.dialogue import number
from services.engineer.training.model import INITIALISATION
from services.engineer.training.ports import Message
from services.engineer.training.result import Measurements
from services.engineer.training.session import Session


def measurements_of(
    session: Session, ready: Message, isolation: str, joules: float | None, seconds: float
) -> Measurements:
    """Speed is the host's clock; parameters, FLOPs and memory are the child's word, which nothing is scored by."""
    scale, history = session.job.scale, session.history
    flops = ready.header.get("flops_per_token")
    versions = ready.header.get("versions")
    peaks = [m.peak_memory_bytes for m in history if m.peak_memory_bytes is not None]
    return Measurements(
        parameters=int(number(ready, "parameters")),
        flops_per_token=float(flops) if isinstance(flops, int | float) else None,
        tokens_per_second=median(m.tokens_per_second for m in history) if history else None,
        peak_memory_bytes=max(peaks) if peaks else None,
        energy_joules=joules,
        seconds=seconds,
        device=scale.device,
        device_name=str(ready.header.get("device_name", "")),
        versions={str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
        data_fingerprint=session.job.corpus.fingerprint,
        initialisation=INITIALISATION,
        precision=scale.precision,
        isolation=isolation,
        tokens=session.step * scale.tokens_per_step,
        compiled=session.compiled,
        auxiliary_loss=session.auxiliary_loss,
    )
