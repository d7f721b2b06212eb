"""The report as a paper's supplement: from a measured run and from a published archive of 1,772 records."""

import csv
import re
import warnings
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import published_archive
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb
from services.report.compute import of_run, replays
from services.report.dataset import Dataset, benchmarks, components, holdings, origins
from services.report.figures import count_against_compute, curves, front, pool_over_time, trends
from services.report.lineage import radial_tree, tree
from services.report.page import bibtex, methods, write_report
from services.report.rows import row
from services.store.importing import read_published
from services.store.published import candidate_of
from tests.report.example_run import finished_run, status


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """As the store holds it after an import."""
    folder = tmp_path_factory.mktemp("published")
    published_archive.write(folder)
    imported = archive_pb2.RunStatus(run="imported", phase="finished", origin="imported from asi-arch")
    return Dataset(imported, [candidate_of("imported", record) for record in read_published(folder).records])


@cache
def finished() -> Dataset:
    """Three controls and thirty candidates, measured."""
    records = finished_run(proposals=30)
    for index, record in enumerate(records):
        if index % 3:
            record.proposal.components.remove("output-gate")
        record.proposal.ideas.add(text="an idea", origin="cognition" if index % 2 else "original")
    return Dataset(status(), records)


def test_a_published_archive_is_drawn_with_all_its_candidates(published: Dataset) -> None:
    """1,772 scores, and curves, accuracies and sizes of 106; what it lacks is nowhere invented."""
    counts = {part: count for part, count, _ in holdings(published).cells}
    trend = trends(published)

    assert counts["fitness"] == published_archive.NODES
    assert (
        counts["training curve"]
        == counts["benchmark scores"]
        == counts["parameter count"]
        == published_archive.DETAILED
    )
    assert counts["held-out loss"] == counts["training time"] == 0
    assert "fitness: n = 1772; final training loss: n = 10" in trend.caption
    assert "mean accuracy: n = 106" in trend.caption
    assert "loss" not in benchmarks(published).header
    assert radial_tree(published).figure is not None
    assert "hold no compute" in count_against_compute(published).caption


def test_an_imported_record_has_no_held_out_loss_and_no_time_of_training(published: Dataset) -> None:
    """Their fields of a seed are zero, which is no measurement."""
    assert replays(published.records) == []
    assert {row(record)["seconds"] for record in published.records} == {None}
    with pytest.raises(ValueError, match="no baseline of run imported was trained"):
        of_run("imported", published.records)


def test_baselines_with_one_seed_show_no_noise() -> None:
    """The reason names the flag that would."""
    records = finished_run()
    for record in records:
        del record.training.seeds[1:]

    with pytest.raises(ValueError, match="trained with one seed, which shows no noise; see run --baseline-seeds 2"):
        of_run("r1", records)


def test_figure_1_counts_those_better_than_the_root_against_hours() -> None:
    """With a line and its band, and the words that say what better means."""
    drawing = count_against_compute(finished())

    assert drawing.header[1] == "compute spent (hours of training and evaluation)"
    assert drawing.missing or int(str(drawing.cells[-1][2])) >= 0
    assert "lower held-out loss and higher mean accuracy than Net1" in drawing.caption


def test_a_run_with_objectives_shows_its_front_and_how_the_hypervolume_grew() -> None:
    """Later candidates have less loss and, here, more parameters: all of them are on the front but those stopped."""
    about, records = status(), finished_run(proposals=9)
    about.settings.policies.objectives = "loss,parameters"
    for number, record in enumerate(records):
        for seed in record.training.seeds:
            seed.measurements.parameters = 400_000 - 1000 * number if number % 2 else 500_000
    records[-1].training.seeds[0].stopped = "By 50% of the steps it fell behind."
    drawing = front(Dataset(about, records))
    cells = {str(row[0]): row[-1] for row in drawing.cells}

    assert drawing.figure is not None
    assert drawing.header == ("id", "name", "loss", "parameters", "on the front")
    assert [name for name, answer in cells.items() if answer == "yes"] == ["c000011", "c000010"]
    assert "c000012" not in cells
    assert "it ends at" in drawing.caption
    assert "NSGA-II" in methods(Dataset(about, records))
    assert "one objective" in front(finished()).missing


def test_no_figure_has_fewer_candidates_than_it_needs() -> None:
    """Each says how many there are and how many it needs."""
    few = Dataset(status(), finished_run(proposals=1, confirmed=0, refuted=0)[:2])
    drawings = [count_against_compute(few), trends(few), pool_over_time(few), components(few), origins(few),
                radial_tree(few), curves(Dataset(status(), []))]  # fmt: skip

    assert [drawing.figure for drawing in drawings] == [None] * len(drawings)
    assert all(drawing.missing for drawing in drawings)
    assert "of 10 needed" in drawings[0].missing
    assert tree(Dataset(status(), finished_run(proposals=100))).missing.startswith("names have room for up to 60")


def test_components_and_origins_are_tables_with_counts_and_intervals() -> None:
    """The interval holds its share; both groups are counted."""
    rows = [dict(zip(("kind", "with", "without", "best", "low", "high"), row, strict=False))
            for row in components(finished()).cells]  # fmt: skip
    gate = next(row for row in rows if row["kind"] == "output-gate")
    shares = origins(finished()).cells

    assert (gate["with"], gate["without"]) == (11, 22)
    assert float(str(gate["low"])) <= float(str(gate["best"])) <= float(str(gate["high"]))
    assert {row[2] for row in shares} == {"analysis", "cognition", "original"}


def test_methods_and_citation_come_from_the_settings_of_the_run(published: Dataset) -> None:
    """A paragraph and an entry that BibTeX reads."""
    about = status()
    about.settings.mind, about.settings.seed, about.settings.seats = "offline", 7, 2
    about.settings.pool.size, about.settings.pool.parents, about.settings.parent_policy = 12, 4, "power-law"
    text = methods(Dataset(about, finished_run()))

    assert "at scale tiny" in text
    assert "12 candidates by the mind “offline”, 2 in flight at a time, seed 7" in text
    assert "Finalists were chosen by “halving”" in text
    assert "offered a parent, drawn from a pool of 12 by a power law of the rank, and" in text
    assert "Fitness (standardised-gain-1) is the gain over the root in loss and benchmark, in units of" in text
    about.settings.parent_policy, about.settings.fitness = "", "paper"
    assert "Fitness (paper) is loss, benchmark and judge against the root" in methods(Dataset(about, []))
    assert "drawn uniformly from the best 4 of a pool of 12, and" in methods(Dataset(about, []))
    assert "none of them was measured here" in methods(published)
    assert bibtex(Dataset(about, finished_run())).startswith("@misc{asiarchr1,")
    assert "eprint        = {2507.18074}" in bibtex(published)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a report about names of every kind, and of two tasks. No warning is given."""
    folder, records = tmp_path_factory.mktemp("odd"), finished_run()
    for record, name in zip(
        records, ("\x1b[31mred\x00", "\u202egnol\n", "漢字 $\\frac{$", "=" + "x" * 10_000), strict=False
    ):
        record.proposal.name = name
    records[4].proposal.name = '<script>alert("x")</script>'
    records[4].verdict.fitness.CopyFrom(pb.Fitness(value=9.0))
    for index, record in enumerate(records):
        record.training.seeds[0].scores.add(task="wiki_ppl", metric="perplexity", value=30.5 + index)
        record.training.seeds[0].scores.add(task="glossary", metric="acc", value=0.5 + index / 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return write_report(status(), records, folder)


def test_the_page_holds_its_figures_and_lists_the_missing_ones(odd: Path) -> None:
    """Every figure as PNG, SVG and PDF with its CSV; ids of two figures in one page never meet; text stays text."""
    page, folder = odd.read_text(encoding="utf-8"), odd.parent
    drawn = sorted(path.stem for path in folder.glob("*.svg"))
    ids = [
        identifier for path in folder.glob("*.svg") for identifier in re.findall(r'\bid="([^"]+)"', path.read_text())
    ]

    assert {"curves", "figure-1-count", "figure-3-tree", "figure-5-radial", "score-trend"} <= set(drawn)
    for name in drawn:
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / f"{name}.png").stat().st_size > 5000
        assert len(list(csv.reader((folder / f"{name}.csv").open()))) > 1
    assert len(ids) == len(set(ids))
    assert "<text" in (folder / "curves.svg").read_text()
    assert page.index("Not drawn") > page.index("Contents of the records")
    assert "Ablations: no candidate was ablated" in page
    assert "http" not in (folder / "curves.svg").read_text().split("<defs", 1)[1].replace("http://www.w3.org", "")


def test_the_best_perplexity_is_the_lowest(odd: Path) -> None:
    """Of accuracies it is the highest. Columns of text are aligned to the left, of numbers to the right."""
    page = odd.read_text(encoding="utf-8")

    assert '<th scope="col" class="text">name</th>' in page
    assert '<th scope="col">loss</th>' in page
    assert "<strong>30.5000</strong>" in page
    assert "<strong>0.6400</strong>" in page


def test_hostile_names_are_escaped(odd: Path) -> None:
    """Names of candidates are untrusted."""
    assert "<script" not in odd.read_text(encoding="utf-8")


def test_names_that_no_figure_can_show_leave_it_well_formed(odd: Path) -> None:
    """Published names may hold any character, and be of any length; only CSV files have them as they are."""
    assert not set("\x00\x1b\u202e") & set(odd.read_text(encoding="utf-8"))
    assert "x" * 41 not in odd.with_name("curves.svg").read_text(encoding="utf-8")
    assert "$\\frac{$" in odd.with_name("figure-5-radial.svg").read_text(encoding="utf-8")
    tables = [cell for path in odd.parent.glob("*.csv") for row in csv.reader(path.open(newline="")) for cell in row]
    assert "'=" + "x" * 10_000 in tables  # else a spreadsheet takes it for a formula
    assert not any(cell.startswith("=") for cell in tables)
    for path in odd.parent.glob("*.svg"):
        ElementTree.parse(path)  # noqa: S314 - written by us
