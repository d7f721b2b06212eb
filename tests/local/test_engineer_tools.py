"""Trainings of a run repeated on another machine than the run's."""

from pathlib import Path

import pytest

from services.chassis.errors import SettingsError
from services.console.commands.sizes import planned
from services.contracts import archive_pb2, candidate_pb2, events_pb2
from services.local.engineer_tools import require_effective, suited_precision, train_again
from services.local.plan import RunOptions, run_settings
from services.report.comparisons import Trained
from tests.engineer.training.programs import CONVOLUTION, SMALL


def test_a_run_in_bf16_is_repeated_in_fp32_where_bf16_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit of the published run took more than ten minutes on a processor without bf16, and could time out."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    overrides, sentence = suited_precision("tiny", {"precision": "bf16-autocast", "tokens": "4096"})

    assert overrides == {"precision": "fp32", "tokens": "4096"}
    assert "bfloat16 is emulated on this machine" in sentence
    assert suited_precision("tiny", {"precision": "fp32"}) == ({"precision": "fp32"}, "")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"corpus": "book.txt"}, "--corpus or --set: .*book.txt leaves . held-out tokens"),
        ({"set": ["tasks=trained-copy"]}, "--set: There is no task trained-copy: choose from trained-mqar, "),
        ({"set": ["tasks=bits", "task_path=nowhere"]}, "--set: There is no folder nowhere with task files"),
        ({"promotion": "halving", "policy": ["stages=tiny:tasks=trained-copy"]}, r"stages \(tiny\): There is no task"),
    ],
)
def test_own_files_are_read_before_services_start(
    values: dict[str, object], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless engineers elsewhere have them: these refusals came when all services were up."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("short")
    options = RunOptions.read(values)

    require_effective(options, run_settings(options))
    with pytest.raises(SettingsError, match=reason):
        require_effective(options, run_settings(options), here=True)


def test_continued_trainings_keep_the_precision_and_repeat_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine may be asked to continue: losses of different precision are not compared."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    settings = events_pb2.RunSettings(scale="tiny", scale_overrides={"precision": "bf16-autocast"})
    status, record = archive_pb2.RunStatus(settings=settings), candidate_pb2.Candidate(id="c1")
    trained = [Trained("c1", "Net", 1, "python-source", 1, 2.0, precision="bf16-autocast")]
    trained += [Trained("c1", "Net", 1, "python-source", 2, None, failure="it took too long")]
    (job,) = planned(status, [record], [1], 2, ["python-source"], trained)

    assert (job.seed, job.overrides["precision"]) == (2, "bf16-autocast")


def test_trainings_at_once_are_told_apart_by_their_lines_of_progress(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing was printed for the minutes that they take."""
    result = train_again("Net", CONVOLUTION, "tiny", SMALL, 7)

    assert isinstance(result["loss"], float)
    assert "Net, seed 7: step " in capfd.readouterr().err
