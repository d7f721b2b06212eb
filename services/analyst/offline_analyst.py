"""An analysis without a language model, from the changes and the measured differences.

Every number in it is one of the record's, a difference of two of them, or the standard error of such a difference.
"""

from services.analyst.cognition import Knowledge
from services.analyst.comparison import Difference, Dossier, listed, loss_difference, reference_of, results
from services.archive.scoring import stopped_early
from services.contracts import candidate_pb2 as pb
from services.domain.components import VOCABULARY

NAME = "offline comparison 2"


class OfflineAnalyst:
    """Writes the paper's five parts from measured differences."""

    async def analyse(self, dossier: Dossier) -> pb.Analysis:
        return pb.Analysis(
            design_evaluation=_design(dossier),
            results=results(dossier),
            expectation=_expectation(dossier),
            explanation=_explanation(dossier),
            synthesis=_synthesis(dossier),
            components=components_of(dossier.record),
            ideas=dossier.record.proposal.ideas,
            lessons=_lessons(dossier),
            cognition=hits_of(dossier),
            analyst=NAME,
        )


def components_of(record: pb.Candidate) -> list[str]:
    """The proposal's components in the vocabulary, without unknown ones."""
    return list(dict.fromkeys(VOCABULARY.normalise(tag) for tag in record.proposal.components if tag in VOCABULARY))


def hits_of(dossier: Dossier) -> list[pb.CognitionHit]:
    return [
        pb.CognitionHit(entry=hit.knowledge.id, similarity=hit.similarity, title=hit.knowledge.paper.title)
        for hit in dossier.hits
    ]


def _lessons(dossier: Dossier) -> list[pb.Lesson]:
    """The effect of a single added or removed component on the loss, if it is significant."""
    if dossier.parent is None or (difference := _difference(dossier, dossier.parent)) is None:
        return []
    own, before = set(components_of(dossier.record)), set(components_of(dossier.parent))
    if len(own ^ before) != 1 or not difference.certain():
        return []
    (component,) = own ^ before
    helps = (difference.gain > 0) == (component in own)
    change = "Adding" if component in own else "Removing"
    claim = (
        f"{change} it changed the loss from {dossier.parent.training.loss:.4f} to {dossier.record.training.loss:.4f} "
        f"in a child of {dossier.parent.proposal.name}{_caveat(difference)}."
    )
    return [pb.Lesson(component=component, effect="helps" if helps else "hurts", claim=claim)]


def _design(dossier: Dossier) -> str:
    proposal = dossier.record.proposal
    own = components_of(dossier.record)
    text = f"{proposal.name} is made of {listed(own)}." if own else f"{proposal.name} names no components."
    if dossier.parent is None:
        return text + " It has no parent in this run."
    before = components_of(dossier.parent)
    added, removed = [tag for tag in own if tag not in before], [tag for tag in before if tag not in own]
    changes = [f"adds {listed(added)}"] * bool(added) + [f"removes {listed(removed)}"] * bool(removed)
    changed = " and ".join(changes) if changes else "keeps the components and changes how they work together"
    moves = f" Moves: {listed(_moves(dossier))}." if proposal.moves else ""
    return f"{text} Against {dossier.parent.proposal.name} it {changed}.{moves}"


def _expectation(dossier: Dossier) -> str:
    reference = reference_of(dossier)
    if not dossier.record.training.HasField("loss"):
        return f"{_claim(dossier)}It was not measured, so nothing is known about it."
    if stopped_early(dossier.record):
        return f"{_claim(dossier)}This is not confirmed: its training fell behind earlier ones and was stopped."
    if reference is None:
        return "It is a baseline, with which the others are compared."
    difference = _difference(dossier, reference[0])
    if difference is None or not difference.certain():
        undecided = "This is neither confirmed nor refuted: at this scale it cannot be distinguished from"
        return f"{_claim(dossier)}{undecided} {reference[1]}."
    outcome = "is confirmed" if difference.gain > 0 else "is not confirmed"
    direction = "improves on" if difference.gain > 0 else "falls behind"
    return f"{_claim(dossier)}This {outcome}: it {direction} {reference[1]}{_caveat(difference)}."


def _difference(dossier: Dossier, reference: pb.Candidate) -> Difference | None:
    return loss_difference(dossier.record, reference, dossier.between_seeds)


def _claim(dossier: Dossier) -> str:
    """The motivation, and the insights of its source entries."""
    motivation = dossier.record.proposal.motivation.strip().splitlines()
    hope = f"Expected: {motivation[0]} " if motivation else ""
    return hope + "".join(
        f"{_cited(source)}, which suggested it, says: {source.entry.design_insight} " for source in dossier.sources
    )


def _explanation(dossier: Dossier) -> str:
    cited = {source.id for source in dossier.sources}
    near = [hit.knowledge for hit in dossier.hits if hit.knowledge.id not in cited]
    if not near and not dossier.sources:
        return "No entry of the cognition base is similar enough to explain the results."
    sentences = (
        [f"The change was suggested by {listed(list(map(_cited, dossier.sources)))}."] if dossier.sources else []
    )
    sentences += [f"{_cited(entry)}: {entry.entry.design_insight}" for entry in near]
    return "The literature on these results, which this run alone does not confirm: " + " ".join(sentences)


def _synthesis(dossier: Dossier) -> str:
    reference = reference_of(dossier)
    difference = _difference(dossier, reference[0]) if reference else None
    tried = listed(_moves(dossier)) if dossier.record.proposal.moves else "the change"
    if not dossier.record.training.HasField("loss"):
        advice = f"Nothing is known about {tried}; train it before building on it."
    elif stopped_early(dossier.record):
        advice = f"Change something else than {tried}; its training fell behind earlier ones and was stopped."
    elif difference is None or reference is None:
        advice = "Use it as a reference."
    elif not difference.certain():
        advice = (
            f"Repeat with further seeds before building on {tried}; a different change is the better use of a seat."
        )
    elif difference.gain > 0:
        advice = f"Keep {tried} and build on it; leave one part out at a time to see which carries the gain."
    else:
        advice = f"Drop {tried}; go back to {reference[1]} and change something else."
    return f"{advice}{_next(dossier)}"


def _next(dossier: Dossier) -> str:
    """The first retrieved entry with components that the candidate lacks."""
    own = components_of(dossier.record)
    for hit in dossier.hits:
        missing = [component for component in hit.knowledge.entry.components if component not in own]
        if missing:
            return f" Worth trying next: {listed(missing)}, after {_cited(hit.knowledge)}."
    return ""


def _caveat(difference: Difference) -> str:
    return ", in one seed; others may differ" if difference.seeds is None else ""


def _cited(knowledge: Knowledge) -> str:
    return f"{knowledge.paper.title} ({knowledge.paper.reference})"


def _moves(dossier: Dossier) -> list[str]:
    return [move.replace("_", " ") for move in dossier.record.proposal.moves]
