"""Trainings of a run's candidates at other sizes."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.chassis.errors import NotFound, NotPossible, SettingsError
from services.console.cli import app
from services.console.commands.sizes import record_named
from services.contracts import candidate_pb2


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("c9", "no candidate is called 'c9'"),
        ("Net", "2 candidates are called Net: give an id"),
        ("c1", "c1 has no program"),
    ],
)
def test_a_candidate_that_cannot_be_trained_again_is_refused_with_the_reason(name: str, sentence: str) -> None:
    """All three were told that some number of candidates has a program."""
    records = [candidate_pb2.Candidate(id=id_, proposal=candidate_pb2.Proposal(name="Net")) for id_ in ("c1", "c2")]
    with pytest.raises((NotFound, NotPossible), match=sentence):
        record_named(records, name)


@pytest.mark.parametrize(
    ("text", "reason"), [(None, "contains no file that ends in .py"), ("x = (", "is not a Python")]
)
def test_a_folder_without_variants_is_refused_before_anything_is_trained(
    text: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The candidate would be trained with all seeds first."""
    monkeypatch.setenv("ASI_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "variants").mkdir()
    if text is not None:
        (tmp_path / "variants" / "without_gate.py").write_text(text)

    with pytest.raises(SettingsError, match=f"--programs: .*{reason}"):
        CliRunner().invoke(app, ["ablate", "c000001", "--programs", str(tmp_path / "variants")], catch_exceptions=False)
