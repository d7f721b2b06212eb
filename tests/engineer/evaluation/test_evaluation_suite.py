"""The local benchmarks, and what the harness makes of a trained model."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers  # noqa: F401 - datasets, in the harness, would use its stand-in for programs

from services.engineer.data import open_corpus
from services.engineer.evaluation.scoring import KINDS, Change, gain_of, part_losses
from services.engineer.evaluation.tasks import LOCAL, make_questions
from services.engineer.scales import load_scale
from services.engineer.training.host import train
from services.engineer.training.result import LooksAhead, TaskScore, benchmark_of
from tests.engineer.training import programs
from tests.engineer.training.inline_sandbox import InlineSandbox
from tests.engineer.training.programs import SMALL

SCALE = load_scale("tiny", SMALL)
CORPUS = open_corpus(SCALE, Path("unused"), "tests")
TEXT = CORPUS.tokens.decode(CORPUS.heldout[:200_000].tolist())


@pytest.mark.parametrize("name", LOCAL)
def test_questions_are_repeatable_and_have_one_right_answer(name: str) -> None:
    """Scores of two candidates are only comparable over the same questions."""
    questions = make_questions(name, TEXT, 50)

    make_questions.cache_clear()
    assert make_questions(name, TEXT, 50) == questions
    assert all(len(set(q.choices)) == len(q.choices) and 0 <= q.answer < len(q.choices) for q in questions)
    assert len({q.answer for q in questions}) > 1


@pytest.mark.parametrize("name", ["cloze", "code"])
def test_no_choice_is_offered_twice_if_text_repeats_itself(name: str) -> None:
    """As licences do, and names with equal ends: a question with fewer different choices is easier."""
    lines = "".join(f"word{n} is used with score, store, swore and other{n} words of a licence\n" for n in range(9))

    for q in make_questions(name, lines * 20, 100):
        assert len(set(q.choices)) == 4


def test_the_loss_is_reported_by_position_and_kind_of_token() -> None:
    """Per character here; the last letter of "ab ab" follows a pair that its row has shown before."""
    rows = np.array([list(b"xab 7ab 7"), list("xé.\n  zzz".encode()[:9])], dtype=np.int64)
    losses = np.arange(16, dtype=np.float32).reshape(2, 8)

    parts = {part.part: part for part in part_losses(losses, rows, CORPUS.tokens)}

    assert parts["tokens 1-8"].loss == pytest.approx(7.5)
    assert parts["tokens 1-8"].share == 1.0
    assert parts["digits"].loss == pytest.approx((3 + 7) / 2)
    assert parts["other characters"].share == pytest.approx(2 / 16)
    assert parts["after a pair seen before"].loss == pytest.approx((6 + 7) / 2)
    assert sum(parts[kind].share for kind in KINDS if kind in parts) == pytest.approx(1.0)


def test_recall_questions_can_be_answered_from_their_context() -> None:
    """A benchmark with wrong answers measures nothing."""
    for q in make_questions("mqar", TEXT, 20):
        name = q.context.splitlines()[-1]
        assert f"{name}{q.choices[q.answer]}\n" in q.context


async def test_a_trained_model_gets_scores_with_standard_errors() -> None:
    """Our adapter behind the harness's interface, through fresh children."""
    scale = load_scale("tiny", {**SMALL, "tasks": "brackets,cloze", "task_limit": "12", "context": "160", "steps": "4"})
    result = await train(programs.CONVOLUTION, 0, scale, CORPUS, InlineSandbox())

    assert [score.task for score in result.scores] == ["brackets", "cloze"]
    assert all(score.items == 12 and score.stderr is not None for score in result.scores)
    assert all(len(score.correct) == 12 for score in result.scores)
    assert all(score.chance is not None and 0.1 <= score.chance <= 0.5 for score in result.scores)
    assert result.benchmark == pytest.approx(sum(score.value for score in result.scores) / 2)


SCORING = """
import sys
from pathlib import Path
from lm_eval.api.model import LM
from services.engineer.data import open_corpus
from services.engineer.evaluation.harness import HarnessModel, evaluate
from services.engineer.evaluation.tasks import EvaluationUnavailable
from services.engineer.scales import load_scale
from services.engineer.training.session import Job

class Guessing(HarnessModel):
    def __init__(self):
        LM.__init__(self)

    def loglikelihood(self, requests, disable_tqdm=True):
        return [(0.0, False)] * len(requests)

class Stopping(Guessing):
    def loglikelihood(self, requests, disable_tqdm=True):
        return [next(iter(()))]

scale = load_scale("tiny", {"tasks": "brackets", "task_limit": "2"})
job = Job("", 0, scale, open_corpus(scale, Path("unused"), "tests"))
results = evaluate(Guessing(), job)
print(*results["results"], "torch" in sys.modules)
try:
    evaluate(Stopping(), job)
except EvaluationUnavailable:
    print("refused")
"""


def test_scoring_needs_no_torch_in_the_process_of_an_engineer() -> None:
    """The harness would import it to set its seed: two seconds and 190 MB for each engineer.

    A task's StopIteration is translated, since a future that should hold it is never done.
    """
    done = subprocess.run([sys.executable, "-c", SCORING], capture_output=True, text=True, check=True, timeout=120)

    assert done.stdout.split() == ["brackets", "False", "refused"]


def test_a_missing_task_leaves_no_benchmark() -> None:
    """An average over fewer tasks is not the benchmark."""
    scores = [TaskScore("a", "acc", 0.5, 0.1, 10)]

    assert benchmark_of(scores, ("a", "b")) is None
    assert benchmark_of(scores, ("a",)) == 0.5
    assert benchmark_of([replace(scores[0], metric="word_perplexity")], ("a",)) is None


def test_small_changes_count_as_rounding_but_large_or_steady_ones_do_not() -> None:
    """bfloat16 moves log-probabilities a little; a leak moves them in one direction."""

    def gain(*gains: float) -> float:
        return gain_of([Change(10 + index, -1.0, -1.0 - gain) for index, gain in enumerate(gains)])

    assert abs(gain(0.01, -0.02)) < 0.01
    assert gain(0.002, 0.001) == pytest.approx(0.0015)
    for gains in ([0.0] * 50 + [2.0], [0.1] * 50, [0.01] * 50, [0.0, float("nan")]):
        with pytest.raises(LooksAhead):
            gain(*gains)
