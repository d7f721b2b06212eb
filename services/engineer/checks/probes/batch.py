"""Does a row of a batch depend on its neighbours?"""

from services.engineer.checks.comparing import largest_gap
from services.engineer.checks.report import Finding
from services.engineer.checks.subject import STATES, State, Subject

LENGTH = 97
ROWS = 3


def batch(subject: Subject) -> Finding:
    """Replaces all rows but one by other noise, and removes them, and expects that row's output unchanged.

    Probed at initialisation and with randomised parameters, in training and evaluation mode, dropout off.
    Cannot see: coupling that begins at bigger batches, or through state kept from earlier calls (see drift).
    """
    for state in STATES:
        finding = _coupled(subject, state)
        if finding:
            return finding
    return Finding(False, "rows of a batch are independent")


def _coupled(subject: Subject, state: State) -> Finding | None:
    inputs = subject.noise(ROWS, LENGTH, subject.width)
    others = inputs.clone()
    others[:1] = 5 * subject.noise(1, LENGTH, subject.width, seed=2)
    others[2:] = 0.2 * subject.noise(ROWS - 2, LENGTH, subject.width, seed=3)
    alone = slice(1, 2)
    answers = {"the other rows change": subject.output(others, state)[alone]}
    if not state.training:  # noise drawn in training has the shape of the batch
        answers["the other rows are removed"] = subject.output(inputs[alone], state)
    reference = subject.output(inputs, state)[alone]
    for change, answer in answers.items():
        gap = largest_gap(reference, answer, subject.exact.tolerance)
        if gap.relative > subject.exact.tolerance:
            return Finding(True, f"a row's output changes when {change} ({state})", gap.evidence())
    return None
