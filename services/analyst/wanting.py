"""Which ablations the analyst asks for on its own: of new parts, where there is a gain that they could carry."""

from services.analyst.dossier import Dossier
from services.archive.scoring import loss_gain
from services.chassis.events import follow
from services.chassis.worker import Job
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2

MOST_PER_CANDIDATE = 2
FORM = frozenset({"chunkwise-form", "parallel-scan", "hardware-kernel"})
"""How a program is computed, not what it computes."""


def worth_asking(dossier: Dossier) -> list[str]:
    """Components that the parent lacks, of a proposal that is better than the root beyond its interval; else none.

    The run's budget of ablations is the store's to keep; a run without one is not asked at all.
    """
    record, root = dossier.record, dossier.root
    if record.kind != pb.KIND_PROPOSAL or root is None or not dossier.settings.policies.ablations:
        return []
    gain = loss_gain(record, root)
    if gain is None or gain.low <= 0:
        return []
    inherited = set(dossier.parent.proposal.components if dossier.parent is not None else ()) | FORM
    return [one for one in record.proposal.components if one not in inherited][:MOST_PER_CANDIDATE]


def wanted(job: Job, record: pb.Candidate, components: list[str], service: str) -> list[events_pb2.Event]:
    """One fact for each; the same delivery again gives the same ids."""
    events = []
    for component in components:
        event = follow(job.cause, "wanted", service, 1, record.id, suffix=component)
        reason = "the candidate is better than the root, and its parent does not have this component"
        event.ablation_wanted.CopyFrom(events_pb2.AblationWanted(component=component, reason=reason))
        events.append(event)
    return events
