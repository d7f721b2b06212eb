"""Tables and trees of the command line: they fit the terminal, and what others wrote does not control it."""

import re
import sys

import pytest

from services.console.commands.cost import print_costs
from services.console.commands.show import texts
from services.console.tables import (
    Column,
    family,
    listing,
    paragraph,
    print_markdown,
    rejections,
    say,
    table,
)
from services.contracts import candidate_pb2
from services.report.rows import Node, Row, row


def test_columns_without_any_value_are_left_out_and_fitness_follows_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns are enough for what was measured."""
    monkeypatch.setenv("COLUMNS", "80")
    record = candidate_pb2.Candidate(id="c000001", state=candidate_pb2.STATE_ARCHIVED)
    record.proposal.name = "AnArchitectureWithALongName"
    record.training.loss = 1.5
    record.verdict.fitness.value = 0.5

    assert listing([row(record)]).splitlines()[0].split() == ["id", "name", "loss", "fitness"]


def test_parts_of_the_cost_are_wrapped_beside_their_titles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line per mind or prompt has five numbers."""
    monkeypatch.setenv("COLUMNS", "60")
    drafts = {"asked": 12, "passed_at_first": 10, "rate": 0.83, "repeats": 1, "failed_checks": 1}
    print_costs({"drafts": {"offline surrogate 3": drafts}})

    assert capsys.readouterr().out.splitlines() == [
        "drafts",
        "  offline surrogate 3     asked 12, passed at first 10, rate",
        "                          0.83, repeats 1, failed checks 1",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_names_of_others_control_no_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An imported name may hold an escape sequence, a line break or a change of direction; numbers may be huge."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    record = candidate_pb2.Candidate(
        id="c000001", proposal=candidate_pb2.Proposal(name="\x1b]0;t\x07a\nb\u202e\u200bc")
    )
    record.verdict.fitness.value = 1e30
    node = Node(id="c1", parent=None, name=record.proposal.name, fitness=1e30, loss=None, state="", kind="")
    say(listing([row(record)]))
    say(family([node]))
    say(paragraph("why\x1b[2J\r\nnot"))
    printed = capsys.readouterr().out

    assert re.findall(r"\x1b\[(?![012]m)|[\x00-\x09\x0b-\x1a\u202e\u200b]", printed) == []
    assert printed.count("�]0;t�a b��c") == 2
    assert printed.count(" 1e+30") == 2
    assert printed.endswith("why�[2J\nnot\n")
    print_markdown("[ours](https://example.org/theirs)", "ours")
    assert not terminal or "https://example.org/theirs" in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_wide_letters_are_counted_with_their_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chinese letters take two columns each, and combining marks none."""
    monkeypatch.setenv("COLUMNS", "60")
    names = ["漢字" * 10, "e\u0301" * 12, "plain"]
    cells = Column("name", names, flexible=True), Column("id", ["c1", "c2", "c3"])
    lines = [line.partition("c")[0] for line in table(cells).splitlines()[2:]]
    nodes = [Node(id="c1", parent=None, name=name * 4, fitness=None, loss=None, state="", kind="") for name in names]
    branches = [line.partition("c1")[0] for line in family(nodes).splitlines()[1:]]

    assert [sum(2 if letter in "漢字" else letter != "\u0301" for letter in line) for line in lines] == [42] * 3
    assert len({sum(2 if letter in "漢字" else letter != "\u0301" for letter in line) for line in branches}) == 1
    assert sum("…" in line for line in branches) == 2


def line_of_descent(count: int) -> list[Node]:
    """Each node is the child of the one before."""
    return [
        Node(id=f"c{number:06d}", parent=f"c{number - 1:06d}" if number else None, name=f"Net{number}" * 5,
             fitness=0.5, loss=None, state="archived", kind="proposal")
        for number in range(count)
    ]  # fmt: skip


def test_a_deep_tree_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch deeper than the lines have room for is drawn with its depth."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = family(line_of_descent(60)).splitlines()

    assert len(lines) == 61
    assert all(len(line) <= 80 for line in lines)
    assert "…59 " in lines[-1]


def test_children_are_drawn_best_first_and_equal_ones_in_their_order() -> None:
    """Those without a score came last to first."""
    scores = {"c1": None, "c2": 0.25, "c3": None, "c4": 0.5, "c5": 0.25}
    nodes = [
        Node(id=name, parent=None, name="Net", fitness=fitness, loss=None, state="", kind="proposal")
        for name, fitness in scores.items()
    ]

    assert re.findall(r"c\d", family(nodes)) == ["c4", "c2", "c5", "c1", "c3"]


@pytest.mark.parametrize("width", [1, 30, 45])
def test_a_tree_ends_on_a_terminal_without_room_for_names(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names were shortened for ever, since no letters fit at all."""
    monkeypatch.setenv("COLUMNS", str(width))
    lines = family(line_of_descent(200)).splitlines()

    assert len(lines) == 201
    assert all(len(line) <= max(width, 41) for line in lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_keep_id_name_and_fitness_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole columns go, the least important first; nothing is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    row = Row(
        id="c000001", name="FreeQueryMultiScaleHalfRotaryDeltaNet1403", run="r1", parent="c000002", kind="proposal",
        stage="tiny", state="archived", loss=5.1234, loss_difference=-0.1, benchmark=0.5, judge=10.0, fitness=0.951,
        fitness_low=0.9, fitness_high=1.0, parameters=12_345_678, seconds=123.0, precision="fp32",
        text=None, reason=None, flops=1e9, speed=12_345.0, memory=2e9, state_size=65_536.0, front=True,
    )  # fmt: skip
    lines = listing([row], ["loss", "memory"] if width > 60 else []).splitlines()

    assert all(len(line) <= width for line in lines)
    assert any("c000001" in line and row["name"][:23] in line and "0.951" in line for line in lines)


def test_a_repaired_program_is_announced() -> None:
    """What was trained is then not what the motivation describes."""
    record = candidate_pb2.Candidate(id="c000001")
    record.proposal.motivation = "It convolves eight tokens."
    record.training.revisions.add(error="Killed.\nTraceback", repair="Four tokens instead of eight.")

    assert texts(record) == [
        ("Motivation", "It convolves eight tokens."),
        ("Repaired in training", "Killed. Four tokens instead of eight."),
    ]


def test_the_end_of_a_run_says_why_candidates_were_rejected() -> None:
    """A table of 80 columns leaves the reason out; one cause may reject all candidates."""
    scored, *rejected = (candidate_pb2.Candidate(id=f"c{number}") for number in range(6))
    for record, reason in zip(rejected, "aaabb", strict=True):
        record.rejection.reason = f"reason {reason}"

    assert rejections([row(record) for record in (scored, *rejected)]) == [
        "3 of 5 rejected: reason a",
        "2 of 5 rejected: reason b",
    ]
