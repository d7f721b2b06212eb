"""Programs that want a score which they do not deserve get none; honest ones that look alike are left alone."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from services.engineer.checks.host import PROBES, probe_program
from services.engineer.checks.report import CheckSettings
from services.engineer.data import Corpus, heldout_blocks, open_corpus
from services.engineer.evaluation.reader import JOB as SCORING
from services.engineer.evaluation.scoring import MEMORY_TOLERANCE, require_no_memory, with_other_ends
from services.engineer.scales import Scale, load_scale
from services.engineer.training.audit import AdamW
from services.engineer.training.host import JOB as TRAINING
from services.engineer.training.host import Trained, optimise, require_independent, score, train
from services.engineer.training.measurements import trained_elements
from services.engineer.training.protocol import state
from services.engineer.training.result import LooksAhead, TrainingFailed
from services.engineer.training.session import Job, Supervision
from services.sandbox import ChildError, Limits, Message, Sandbox

from tests.engineer.hostile import programs
from tests.engineer.training.inline_sandbox import HostEnd, InlineSandbox
from tests.engineer.training.programs import CONVOLUTION, SMALL

SETTINGS = CheckSettings(baseline_parameters=135_232)
OFTEN = {
    "leaks only at the length of training",
    "couples rows in the last layer",
    "eleven times the parameters in the last layer",
    "forges the findings of its process",
    "after some steps",
    "within a context, after some steps",
}

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def small() -> Scale:
    return load_scale("tiny", SMALL)


@pytest.fixture(scope="module")
def corpus(small: Scale) -> Corpus:
    return open_corpus(small, Path("unused"), "tests")


def some(names: Iterable[str]) -> list[object]:
    return [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", some(programs.REFUSED))
async def test_a_program_that_only_passes_elsewhere_is_refused(name: str, sandbox: Sandbox) -> None:
    """The verdict is computed outside of the child, in all layers, at the sizes of the scale."""
    probe, program = programs.REFUSED[name]

    verdicts = await probe_program(program, sandbox, SETTINGS)

    assert probe in [verdict.probe for verdict in verdicts if verdict.outcome == "fail"], verdicts


async def test_growth_in_a_later_layer_is_counted_and_not_only_timed(sandbox: Sandbox) -> None:
    """On a busy machine, times at short lengths are too long to show it."""
    _, program = programs.REFUSED["quadratic in the last layer"]

    (cost,) = [verdict for verdict in await probe_program(program, sandbox, SETTINGS) if verdict.probe == "cost"]

    assert cost.outcome == "fail"
    assert cost.message.startswith("layer 1: cost grows faster than n log n")


@pytest.mark.slow
async def test_parameters_beyond_one_message_are_all_counted(sandbox: Sandbox) -> None:
    """However many there are, they are counted on what comes back."""
    size, pieces = 40_000_000, 2
    lines = [f"self.piece{number} = nn.Parameter(torch.zeros({size}))" for number in range(pieces)]
    program = programs.mixer(init="\n".join(lines))
    exempt = tuple(probe.name for probe in PROBES if probe.name != "parameters")

    (verdict,) = await probe_program(program, sandbox, replace(SETTINGS, exempt=exempt, layers=1))

    counted = verdict.evidence["parameters"]
    assert verdict.outcome == "fail"
    assert isinstance(counted, int)
    assert size * pieces < counted < size * pieces + 10**6


@pytest.mark.slow
@pytest.mark.parametrize("name", programs.NEAR)
async def test_an_honest_program_that_looks_alike_passes(name: str, sandbox: Sandbox) -> None:
    """A length, a layer or a window are no crime."""
    verdicts = await probe_program(programs.NEAR[name], sandbox, SETTINGS)

    assert [verdict for verdict in verdicts if verdict.outcome == "fail"] == []


@pytest.mark.parametrize("name", programs.DISHONEST_TRAININGS)
async def test_a_training_that_differs_from_its_report_is_detected(
    name: str, small: Scale, corpus: Corpus, sandbox: Sandbox
) -> None:
    """A secretly chosen segment is recomputed with another optimiser."""
    with pytest.raises(TrainingFailed) as failed:
        await train(programs.DISHONEST_TRAININGS[name], 0, small, corpus, sandbox)

    assert failed.value.kind == "forged"


@pytest.mark.parametrize("name", programs.IMPOSSIBLE_STATES)
async def test_a_state_that_cannot_be_a_models_fails_its_training_alone(
    name: str, small: Scale, corpus: Corpus, sandbox: Sandbox
) -> None:
    """Arrays of a child are untrusted in name, shape and size, too."""
    with pytest.raises(TrainingFailed) as failed:
        await train(programs.IMPOSSIBLE_STATES[name], 0, small, corpus, sandbox)

    assert failed.value.kind == "malformed"


async def test_seeds_that_begin_alike_are_no_independent_trainings(
    small: Scale, corpus: Corpus, sandbox: Sandbox
) -> None:
    """Five lucky seeds would confirm a gain that the next one does not have."""

    async def trained(program: str) -> list[Trained]:
        return [await optimise(Job(program, seed, small, corpus), Supervision(), sandbox) for seed in (1, 2)]

    require_independent(await trained(programs.SEEDED_AT_IMPORT))
    with pytest.raises(TrainingFailed, match="must not set torch's random generator"):
        require_independent(await trained(programs.ONE_SEED))


async def test_states_together_fit_into_the_memory_of_a_child(small: Scale) -> None:
    """The host holds several, also of a program with one small layer and a table of a gigabyte."""
    table = np.broadcast_to(np.float32(0), (small.memory_bytes // 16,))

    assert state(Message("saved", {}, {"model/table": table}), small)
    with pytest.raises(TrainingFailed, match="keep buffers small"):
        state(Message("saved", {}, {"model/table": table, "model/more": table[:1]}), small)


@pytest.mark.parametrize(
    ("steps", "first", "second", "possible"),
    [
        (4.0, 0.08, 0.01, True), (3.0, 0.0, 0.01, True), (0.0, 0.0, 0.0, True), (4.0, 1e-12, 0.0, True),
        (np.nan, 0.08, 0.01, False), (np.inf, 0.08, 0.01, False), (-1.0, 0.08, 0.01, False), (5.0, 0.08, 0.01, False),
        (2.5, 0.08, 0.01, False), (4.0, 0.1, 0.01, False), (4.0, 0.1, -0.01, False), (4.0, np.nan, 0.01, False),
        (4.0, np.inf, np.inf, False),
    ],
)  # fmt: skip
async def test_moments_that_no_gradients_give_are_forged(
    steps: float, first: float, second: float, possible: bool, small: Scale, corpus: Corpus
) -> None:
    """Otherwise a child could state moments from which any change of weights follows."""
    job, values = Job("", 0, small, corpus), np.ones((2, 3), dtype=np.float32)
    arrays = {"model/w": values, "optimiser/w/step": np.float32(steps).reshape(())}
    arrays |= {"optimiser/w/exp_avg": first * values, "optimiser/w/exp_avg_sq": second * values}

    with nullcontext() if possible else pytest.raises(TrainingFailed, match="cannot result from 4 steps"):
        AdamW.resumed(job, arrays, ("w",), 4)


async def test_an_honest_training_is_confirmed_by_the_host(small: Scale, corpus: Corpus, sandbox: Sandbox) -> None:
    """Dropout draws the same noise when a segment is recomputed."""
    result = await train(programs.NEAR["dropout"], 0, small, corpus, sandbox)

    assert result.measurements.versions["torch"]
    assert result.measurements.peak_memory_bytes
    assert result.curve[1].loss is not None


async def test_reported_operations_are_within_the_bounds_of_the_host(
    small: Scale, corpus: Corpus, sandbox: Sandbox
) -> None:
    """At least those of the feed-forward parts and the head, at most what the processor can do in the time it took."""
    honest = await train(programs.mixer(), 0, small, corpus, sandbox)
    exaggerated = await train(programs.TELLS_TOO_MANY_OPERATIONS, 0, small, corpus, sandbox)
    with pytest.raises(TrainingFailed) as failed:
        await train(programs.TELLS_NO_OPERATIONS, 0, small, corpus, sandbox)

    sizes = Job("", 0, small, corpus).sizes
    reported, projections = honest.measurements.flops_per_token, 6 * 3 * sizes.width**2 * sizes.blocks
    assert reported is not None
    assert 0 < reported - sizes.flops_without_mixers - projections < 0.2 * reported  # the convolution
    assert exaggerated.measurements.flops_per_token is None
    assert failed.value.kind == "forged"


@pytest.mark.parametrize("name", programs.LOOKS_AHEAD)
async def test_looking_ahead_anywhere_is_refused(name: str, small: Scale, corpus: Corpus) -> None:
    """The true continuation gives something that another one does not."""
    with pytest.raises(LooksAhead):
        await train(programs.LOOKS_AHEAD[name], 0, small, corpus, InlineSandbox())


async def test_state_kept_from_row_to_row_is_refused(small: Scale, corpus: Corpus) -> None:
    """Held-out rows are scored one by one: none may be what the next one is predicted with."""
    with pytest.raises(TrainingFailed) as failed:
        await train(programs.REMEMBERS_ROWS, 0, small, corpus, InlineSandbox())

    assert failed.value.kind in {"remembers", "looks-ahead"}


async def test_what_is_remembered_at_late_positions_is_not_diluted() -> None:
    """Most compared beginnings of rows are shorter than nine tenths of the context."""
    before = np.arange(100) < np.arange(100)[:, None]
    changes = np.where(np.arange(100) >= 90, 0.2, 0.0) * np.ones((100, 1), dtype=np.float32)

    assert changes[before].mean() < MEMORY_TOLERANCE
    require_no_memory(changes / 40, before)
    with pytest.raises(TrainingFailed, match="keep no state between calls"):
        require_no_memory(changes, before)


@pytest.mark.parametrize("name", some(programs.TURNS_QUADRATIC))
async def test_a_cost_that_grows_faster_once_trained_is_refused(
    name: str, small: Scale, corpus: Corpus, sandbox: Sandbox
) -> None:
    """The check builds a new mixer for each forward, so it cannot wait for what happens later."""
    trained = await optimise(Job(programs.TURNS_QUADRATIC[name], 0, small, corpus), Supervision(), sandbox)

    with pytest.raises(TrainingFailed) as failed:
        await score(trained, sandbox, linear=True)
    assert failed.value.kind == "superlinear"


@pytest.mark.parametrize("name", ["dropout", "a mean over the past", "another path for the length of training"])
async def test_a_trained_model_of_linear_cost_is_scored(
    name: str, small: Scale, corpus: Corpus, sandbox: Sandbox
) -> None:
    """Also if its path for one length computes the same."""
    trained = await optimise(Job(programs.NEAR[name], 0, small, corpus), Supervision(), sandbox)

    assert (await score(trained, sandbox, linear=True)).loss > 0


async def test_buffers_that_learn_count_as_parameters(small: Scale, corpus: Corpus) -> None:
    """What comes back is counted, under whatever name, and by its size."""
    assert trained_elements(("a",), {}, {"model/a": np.zeros(3, np.float32), "model/b": np.zeros(4, np.int64)}) == 11
    trained = await optimise(Job(programs.TRAINS_MORE, 0, small, corpus), Supervision(), InlineSandbox())

    with pytest.raises(TrainingFailed) as failed:
        await score(trained, InlineSandbox(), parameter_limit=50_000)
    assert failed.value.kind == "parameters"


async def test_held_out_text_is_sent_once_and_never_beside_a_training_child(small: Scale, corpus: Corpus) -> None:
    """What a training child could be told by another job must not exist while it lives."""
    sandbox = Watched(heldout_blocks(corpus.heldout, small.heldout_blocks, small.context)[:, :-1])

    await train(CONVOLUTION, 0, small, corpus, sandbox)

    occurrences = [sum((rows == block).all(axis=1).sum() for rows in sandbox.scored_rows) for block in sandbox.blocks]
    assert occurrences == [1] * len(sandbox.blocks)
    assert sandbox.beside_training == []


async def test_a_loss_possible_only_with_known_text_is_implausible(small: Scale, corpus: Corpus) -> None:
    """The floor holds for held-out losses too: a lookup of the text is no model."""
    known = replace(corpus, heldout=np.full(100_000, 32, dtype=np.uint8))
    longer = load_scale("tiny", {**SMALL, "steps": "120", "learning_rate": "0.02"})

    with pytest.raises(TrainingFailed) as failed:
        await train(CONVOLUTION, 0, longer, replace(known, train=known.heldout), InlineSandbox())
    assert failed.value.kind in {"implausible", "stopped"}


async def test_a_job_reads_nothing_of_the_machine(small: Scale, corpus: Corpus, sandbox: Sandbox) -> None:
    """The corpus lies on this machine; what a child can read it could look up."""
    with pytest.raises(TrainingFailed) as failed:
        await train(programs.READS_FILES, 0, small, corpus, sandbox)

    assert "PermissionError" in str(failed.value)


@pytest.mark.parametrize("name", programs.SIGNS)
async def test_a_job_cannot_communicate_with_other_jobs(
    name: str, small: Scale, corpus: Corpus, sandbox: Sandbox
) -> None:
    """Each statement is a way that some kernel offers; all end the training."""
    with pytest.raises(TrainingFailed):
        await train(programs.mixer(top=programs.SIGNS[name]), 0, small, corpus, sandbox)


async def test_locks_are_refused_to_jobs_with_files_too(sandbox: Sandbox) -> None:
    """A file that two jobs may read would carry one bit per byte of it."""
    async with sandbox.child("tests.engineer.hostile.jobs:lock", Limits(1 << 28, 5, 10)) as child:
        with pytest.raises(ChildError, match="not permitted"):
            await child.receive(10)


async def test_a_replaced_row_end_never_begins_with_the_true_token() -> None:
    """Else a program that looks ahead would be right by chance."""
    rows = np.tile(np.arange(65), (4, 1))
    positions = np.array([1, 2, 30, 64])

    replaced = with_other_ends(rows, positions, np.arange(1000, dtype=np.uint16) % 97, np.random.default_rng(0))

    for row, position in zip(replaced, positions, strict=True):
        assert (row[:position] == np.arange(position)).all()
        assert row[position] != position


class Watched(InlineSandbox):
    """Notes the rows that scoring children are asked, and whether a training child lived beside held-out ones."""

    def __init__(self, blocks: np.ndarray) -> None:
        super().__init__()
        self.blocks, self.beside_training = blocks, list[int]()
        self._training = 0

    @property
    def scored_rows(self) -> list[np.ndarray]:
        """All rows of the blocks' length that any scoring child was asked."""
        rows = [m.arrays["tokens"].astype(np.int64) for m in self.sent.get(SCORING, []) if m.kind == "read"]
        return [part for part in rows if part.shape[1] == self.blocks.shape[1]]

    @asynccontextmanager
    async def child(self, job: str, limits: Limits) -> AsyncIterator[HostEnd]:
        self._training += job == TRAINING
        async with super().child(job, limits) as child:
            yield child
        self._training -= job == TRAINING
        held_out = [
            part for part in self.scored_rows if any((part == block).all(axis=1).any() for block in self.blocks)
        ]
        if self._training and held_out:
            self.beside_training.append(len(held_out))
