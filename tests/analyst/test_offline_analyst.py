"""The analyst without a language model states only measured results."""

import time

import pytest

from services.analyst.comparison import loss_difference, task_changes
from services.analyst.model_analyst import citable_of, description_of, invented
from services.analyst.offline_analyst import OfflineAnalyst
from services.contracts import candidate_pb2 as pb
from tests.analyst.analyst_records import CHILD, PARENT, ROOT, SIBLING, candidate, dossier

FAMILY = {"root": ROOT, "parent": PARENT, "grandparent": ROOT, "siblings": (SIBLING,)}


async def test_added_and_removed_components_are_named() -> None:
    """The analysis names the change that it explains."""
    analysis = await OfflineAnalyst().analyse(dossier(CHILD, **FAMILY))

    assert "adds short-convolution and removes forget-gate" in analysis.design_evaluation
    assert list(analysis.components) == ["delta-rule", "short-convolution"]


async def test_root_parent_and_sibling_are_compared_with_their_errors() -> None:
    """A difference without its error is no finding."""
    results = (await OfflineAnalyst().analyse(dossier(CHILD, **FAMILY))).results

    assert "Against the root delta_net (1.5000) the loss is lower by 0.1000 (standard error" in results
    assert "Against its parent Parent (1.4500) the loss is lower by 0.0500" in results
    assert "Against its best sibling Sibling (1.4400) the loss is lower by 0.0400" in results
    assert "mqar rose from 0.400 to 0.600" in results


async def test_every_number_occurs_in_the_record() -> None:
    """The offline analysis passes the same check as a language model's."""
    facts = dossier(CHILD, **FAMILY)
    analysis = await OfflineAnalyst().analyse(facts)

    texts = (analysis.design_evaluation, analysis.results, analysis.expectation, analysis.synthesis)
    assert invented(" ".join(texts), citable_of(facts)) == []


async def test_nothing_is_called_better_within_its_error() -> None:
    """Noise must not be reported as a gain."""
    child = candidate("Child", 4, losses=(1.4499,), parent="c000002", noise=0.5)
    analysis = await OfflineAnalyst().analyse(dossier(child, **FAMILY))

    assert "not told apart" in analysis.results.split("its parent")[1]
    assert "neither confirmed nor refuted" in analysis.expectation
    assert "Repeat with further seeds" in analysis.synthesis


async def test_a_worse_candidate_is_advised_against() -> None:
    """Bad results teach as well."""
    child = candidate("Child", 4, losses=(1.60,), parent="c000002")
    analysis = await OfflineAnalyst().analyse(dossier(child, **FAMILY))

    assert "is not confirmed: it falls behind its parent Parent" in analysis.expectation
    assert analysis.synthesis.startswith("Drop the change")


def test_scatter_over_seeds_counts() -> None:
    """The error over blocks alone is too small: another seed may change the sign."""
    first, other = candidate("A", 5, losses=(1.40, 1.52)), candidate("B", 6, losses=(1.50, 1.50))
    difference = loss_difference(first, other)

    assert difference is not None
    assert difference.gain == pytest.approx(0.04)
    assert difference.seeds is not None
    assert not difference.certain()


def test_scatter_over_items_counts() -> None:
    """Three of a hundred answers are chance."""
    (change,) = task_changes(candidate("A", 5, right=43), candidate("B", 6, right=40))

    assert change.difference.gain == pytest.approx(0.03)
    assert not change.difference.certain()


def test_without_a_common_seed_the_errors_of_both_are_added() -> None:
    """Runs trained apart can still be compared, less sharply."""
    first, other = candidate("A", 5, losses=(1.40,)), candidate("B", 6, losses=(1.50,))
    first.training.seeds[0].seed = 99
    first.training.seeds[0].loss_stderr = other.training.seeds[0].loss_stderr = 0.03
    difference = loss_difference(first, other)

    assert difference is not None
    assert difference.stderr == pytest.approx(0.03 * 2**0.5)


@pytest.mark.parametrize("field", ["precision", "data_fingerprint"])
async def test_losses_on_another_text_or_in_another_precision_are_not_compared(field: str) -> None:
    """As in fitness and lessons: they have no difference, and the text says so."""
    first, other = candidate("A", 5, losses=(1.40,)), candidate("B", 6, losses=(1.50,))
    setattr(first.training.seeds[0].measurements, field, "other")
    first.training.seeds[0].loss_stderr = other.training.seeds[0].loss_stderr = 0.03
    text = (await OfflineAnalyst().analyse(dossier(first, parent=other))).results

    assert loss_difference(first, other) is None
    assert task_changes(first, other) == []
    assert "its parent B was measured on other text or in another precision, so the two are not compared" in text


async def test_a_training_that_was_stopped_early_is_not_compared() -> None:
    """Its loss is that of fewer steps, and of a learning rate that had not fallen yet."""
    child, parent = candidate("A", 5, losses=(1.70,)), candidate("B", 6, losses=(1.50,))
    child.training.seeds[0].stopped = "By 25% of the steps the training loss is 2.100, above 2.000."
    analysis = await OfflineAnalyst().analyse(dossier(child, parent=parent))

    assert loss_difference(child, parent) is None
    assert "stopped early, so this loss does not compare with others: By 25% of the steps" in analysis.results
    assert "The loss is not compared with that of its parent B" in analysis.results
    assert "fell behind earlier ones and was stopped" in analysis.expectation
    assert "Change something else" in analysis.synthesis
    assert "over one seed, stopped early" in description_of(child)


@pytest.mark.parametrize("blocks", [True, False])
async def test_only_common_seeds_are_compared(blocks: bool) -> None:
    """The root's second seed was unlucky, which is no gain of a candidate that was trained with the first."""
    root, child = candidate("Root", 1, losses=(1.40, 1.60)), candidate("Child", 5, losses=(1.45,), parent="c000001")
    for seed in () if blocks else (*root.training.seeds, *child.training.seeds):
        seed.ClearField("block_losses")
    difference = loss_difference(child, root)
    text = (await OfflineAnalyst().analyse(dossier(child, root=root))).results

    assert difference is not None
    assert difference.gain == pytest.approx(-0.05)
    assert "Against the root Root (1.4000 with the same seed) the loss is" in text


async def test_the_noise_between_seeds_is_that_of_the_baselines() -> None:
    """One seed of a candidate says little where two of a baseline differ by more than its gain."""
    root, child = candidate("Root", 1, losses=(1.50, 1.56)), candidate("Child", 5, losses=(1.45,), parent="c000001")
    calm = candidate("Root", 1, losses=(1.50, 1.501))
    noisy, told = [(await OfflineAnalyst().analyse(dossier(child, root=known))).results for known in (root, calm)]

    assert "not told apart: the difference of 0.0500 lies within its error" in noisy
    assert "lower by 0.0500" in told
    assert "over held-out data of one seed, with the usual noise between seeds" in told


async def test_what_was_not_measured_is_not_a_number() -> None:
    """No loss is not a loss of zero."""
    unknown = pb.Candidate(id="c000009", run="r1", proposal=pb.Proposal(name="Unknown"))
    analysis = await OfflineAnalyst().analyse(dossier(unknown, **FAMILY))

    assert "No held-out loss was measured" in analysis.results
    assert "0.000" not in analysis.results
    assert "train it before building on it" in analysis.synthesis


async def test_an_absent_fitness_is_explained() -> None:
    """Absence has a cause that the next designer should know."""
    child = pb.Candidate()
    child.CopyFrom(CHILD)
    child.verdict.ClearField("fitness")
    child.verdict.absent_because = "the judge gave no usable answer"

    assert "no fitness: the judge gave no usable answer." in (await OfflineAnalyst().analyse(dossier(child))).results


async def test_an_offline_analysis_takes_milliseconds() -> None:
    """Analyses must not hold up a run: a few milliseconds each, here with much room for a busy machine."""
    facts = dossier(CHILD, **FAMILY)
    started = time.process_time()
    await OfflineAnalyst().analyse(facts)

    assert time.process_time() - started < 0.1
