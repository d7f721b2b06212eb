"""An analysis without a language model: what was changed, what was measured, and what that says about the idea.

Every number in it is one of the record's or a difference of two of them.
"""

from services.analyst.dossier import Dossier
from services.analyst.offline.comparing import Difference, largest_changes, loss_difference, speed_of
from services.contracts import candidate_pb2 as pb
from services.domain.components import VOCABULARY

NAME = "offline comparison 1"


class OfflineAnalyst:
    """Writes the paper's five parts from measured differences."""

    async def analyse(self, dossier: Dossier) -> pb.Analysis:
        """As the port says."""
        return pb.Analysis(
            design_evaluation=_design(dossier),
            results=_results(dossier),
            expectation=_expectation(dossier),
            explanation=_explanation(dossier),
            synthesis=_synthesis(dossier),
            components=components_of(dossier.record),
            ideas=dossier.record.proposal.ideas,
            cognition=hits_of(dossier),
            analyst=NAME,
        )


def components_of(record: pb.Candidate) -> list[str]:
    """The proposal's components in the vocabulary's words; what it does not know is left out."""
    return list(dict.fromkeys(VOCABULARY.normalise(tag) for tag in record.proposal.components if tag in VOCABULARY))


def hits_of(dossier: Dossier) -> list[pb.CognitionHit]:
    """What was retrieved, as it is stored with the experiment."""
    return [
        pb.CognitionHit(entry=hit.knowledge.id, similarity=hit.similarity, title=hit.knowledge.paper.title)
        for hit in dossier.hits
    ]


def _reference(dossier: Dossier) -> tuple[pb.Candidate, str] | None:
    """What the candidate is measured by first: its parent, else the root, unless it is that itself."""
    if dossier.parent is not None and dossier.parent.training.HasField("loss"):
        return dossier.parent, f"its parent {dossier.parent.proposal.name}"
    if dossier.root is not None and dossier.root.id != dossier.record.id and dossier.root.training.HasField("loss"):
        return dossier.root, f"the root {dossier.root.proposal.name}"
    return None


def _design(dossier: Dossier) -> str:
    proposal = dossier.record.proposal
    own = components_of(dossier.record)
    text = f"{proposal.name} is made of {_listed(own)}." if own else f"{proposal.name} names no components."
    if dossier.parent is None:
        return text + " It has no parent in this run."
    before = components_of(dossier.parent)
    added, removed = [one for one in own if one not in before], [one for one in before if one not in own]
    changes = [f"adds {_listed(added)}"] * bool(added) + [f"removes {_listed(removed)}"] * bool(removed)
    changed = " and ".join(changes) if changes else "keeps the components and changes how they work together"
    moves = f" Moves: {', '.join(proposal.moves)}." if proposal.moves else ""
    return f"{text} Against {dossier.parent.proposal.name} it {changed}.{moves}"


def _results(dossier: Dossier) -> str:
    record, training = dossier.record, dossier.record.training
    sentences = [f"Held-out loss {training.loss:.4f} nats per token over {_seeds(training)}."]
    if training.HasField("benchmark"):
        sentences.append(f"Mean accuracy {training.benchmark:.3f}.")
    if dossier.root is not None and dossier.root.id != record.id:
        sentences.append(_against(record, dossier.root, f"the root {dossier.root.proposal.name}"))
    if dossier.parent is not None and (dossier.root is None or dossier.parent.id != dossier.root.id):
        sentences.append(_against(record, dossier.parent, f"its parent {dossier.parent.proposal.name}"))
    if reference := _reference(dossier):
        sentences += [
            f"{task}: {theirs:.3f} before, {ours:.3f} now."
            for task, theirs, ours in largest_changes(record, reference[0])
        ]
        sentences.append(_cost(record, reference[0]))
    best = next((one for one in dossier.siblings if one.training.HasField("loss")), None)
    if best is not None:
        sentences.append(f"Its best sibling {best.proposal.name} reached {best.training.loss:.4f}.")
    return " ".join(one for one in sentences if one)


def _against(record: pb.Candidate, other: pb.Candidate, name: str) -> str:
    difference = loss_difference(record, other)
    if difference is None:
        return ""
    return f"Against {name} ({other.training.loss:.4f}) the loss is {_verdict(difference)}."


def _verdict(difference: Difference) -> str:
    size = f"{abs(difference.gain):.4f}"
    if not difference.certain:
        return f"not told apart: the difference of {size} lies within its error{_error(difference)}"
    return f"{'lower' if difference.gain > 0 else 'higher'} by {size}{_error(difference)}"


def _error(difference: Difference) -> str:
    return "" if difference.stderr is None else f" (standard error {difference.stderr:.4f})"


def _cost(record: pb.Candidate, other: pb.Candidate) -> str:
    ours, theirs = speed_of(record), speed_of(other)
    parameters = [one.training.seeds[0].measurements.parameters for one in (record, other) if one.training.seeds]
    sentences = []
    if len(parameters) == 2 and all(parameters):
        sentences.append(f"It has {parameters[0]:,} parameters against {parameters[1]:,}.")
    if ours and theirs:
        sentences.append(f"It trains at {ours:,.0f} tokens per second against {theirs:,.0f}.")
    return " ".join(sentences)


def _expectation(dossier: Dossier) -> str:
    reference = _reference(dossier)
    if reference is None:
        return "Nothing was expected of it but to be what the others are compared with."
    difference = loss_difference(dossier.record, reference[0])
    promised = dossier.record.proposal.motivation.strip().splitlines()
    claim = f"What was hoped for: {promised[0]} " if promised else ""
    if difference is None:
        return claim + "It was not measured, so nothing can be said about it."
    if not difference.certain:
        return f"{claim}This is neither borne out nor refuted: at this scale it cannot be told from {reference[1]}."
    outcome = "is borne out" if difference.gain > 0 else "is not borne out"
    direction = "improves on" if difference.gain > 0 else "falls behind"
    return f"{claim}This {outcome}: it {direction} {reference[1]}."


def _explanation(dossier: Dossier) -> str:
    if not dossier.hits:
        return "No entry of the cognition base is near enough to what was seen to explain it."
    told = [
        f"{hit.knowledge.paper.title} ({hit.knowledge.paper.reference}): {hit.knowledge.entry.design_insight}"
        for hit in dossier.hits
    ]
    return "What the literature says about what was seen. " + " ".join(told)


def _synthesis(dossier: Dossier) -> str:
    reference = _reference(dossier)
    difference = loss_difference(dossier.record, reference[0]) if reference else None
    tried = _listed(list(dossier.record.proposal.moves)) if dossier.record.proposal.moves else "the change"
    if difference is None:
        return "Use it as a yardstick."
    if not difference.certain:
        return f"Repeat with further seeds before building on {tried}; a different change is the better use of a seat."
    if difference.gain > 0:
        return f"Keep {tried} and build on it; leave one part out at a time to see which carries the gain."
    return f"Drop {tried}; go back to {reference[1] if reference else 'the root'} and change something else."


def _seeds(training: pb.Training) -> str:
    count = len(training.seeds)
    if count == 1:
        return "one seed"
    spread = f", standard error {training.loss_stderr:.4f}" if training.HasField("loss_stderr") else ""
    return f"{count} seeds{spread}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else "nothing"
