"""Published archives and exported logs: in, out, and in again."""

import json
from pathlib import Path

import pytest

from services.store.exporting import write_published
from services.store.importing import BadArchive, candidate_of, events_of, read_programs, read_published


def record(index: int, parent: int | None = None, **more: object) -> dict[str, object]:
    return {"index": index, "name": f"delta_net_{index}", "parent": parent, "score": 1.5, **more}


def archive(tmp_path: Path, *records: dict[str, object]) -> Path:
    (tmp_path / "106.json").write_text(json.dumps(list(records)))
    return tmp_path


def test_a_whole_record_is_read_and_nan_cells_are_absent(tmp_path: Path) -> None:
    """A missing measurement is not zero."""
    tables = {"train": ",100,200,300\nm,2.5,nan,2.1\n", "test": ",arc_easy,boolq\nm,0.5,nan\n"}
    path = archive(tmp_path, record(3, name_new="Shiny", program="x = 1", parameters="495.73M", result=tables))
    (published,) = read_published(path).records

    assert (published.name, published.parameters) == ("Shiny", 495_730_000)
    assert published.curve == ((100, 2.5), (300, 2.1))
    assert published.benchmarks == {"arc_easy": 0.5}
    candidate = candidate_of("pub", published)
    assert not candidate.training.HasField("loss")
    assert candidate.verdict.fitness.value == 1.5


def test_a_folder_of_programs_becomes_candidates_without_scores(tmp_path: Path) -> None:
    """Their docstrings say what they are for; a file that is no program is named, or left out."""
    (tmp_path / "mine.py").write_text('"""Forgets slowly."""\nx = 1\n')
    (tmp_path / "broken.py").write_text("x = (")
    with pytest.raises(BadArchive, match=r"broken\.py is not a Python program"):
        read_programs(tmp_path)
    archive = read_programs(tmp_path, skip_bad=True)
    candidate = candidate_of("own", archive.records[0])

    assert (candidate.proposal.name, candidate.proposal.motivation) == ("mine", "Forgets slowly.")
    assert not candidate.HasField("training")
    assert archive.left_out[0].startswith("broken.py")


def test_the_mean_accuracy_is_that_of_the_papers_tables_or_absent(tmp_path: Path) -> None:
    """Seven tasks, all of them; recall tasks and perplexities do not count."""
    seven = ("arc_challenge", "arc_easy", "boolq", "hellaswag", "piqa", "social_iqa", "winogrande")
    complete = f",{','.join(seven)},swde,wikitext_ppl\nm,0.2,0.4,0.6,0.3,0.6,0.4,0.3,0.05,38.1\n"
    path = archive(tmp_path, record(1, result={"test": complete}), record(2, result={"test": ",boolq\nm,0.6\n"}))
    full, part = (candidate_of("pub", published).training for published in read_published(path).records)

    assert full.benchmark == pytest.approx(0.4)
    assert not part.HasField("benchmark")
    assert {score.task: score.metric for score in full.seeds[0].scores}["wikitext_ppl"] == "perplexity"


def test_tree_and_details_are_joined_by_index(tmp_path: Path) -> None:
    """Names repeat; indices do not, and have gaps."""
    tree = {"total_records": 3, "results": [record(1), record(7, 1), record(9, 7, name="delta_net_1")]}
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    records = read_published(archive(tmp_path, record(7, 1, program="y = 2"))).records

    assert [(published.index, published.parent) for published in records] == [(1, None), (7, 1), (9, 7)]
    assert [published.program for published in records] == ["", "y = 2", ""]


@pytest.mark.parametrize(
    ("records", "named"),
    [
        ([record(1), record(2, 8)], "record 2: its parent 8 is unknown"),
        ([record(1), record(1)], "index 1 occurs twice"),
        ([record(1, 2), record(2, 1)], "record 1 descends from itself"),
        ([record(1), {"name": "x"}], "index must be a whole number"),
        ([record(1, score="good")], "score must be a number"),
        ([record(1, parameters="many")], "parameters must look like"),
        ([record(1, result={"test": ",a\nm,high\n"})], "is not a number"),
        ([record(10**12)], "index must be a whole number from 0 to 4294967295"),
        ([record(1, score=10**400)], "score must be a number"),
        ([record(1, parameters="1.2.3M")], "parameters must look like"),
        ([record(1, parameters=f"{10**14}B")], "parameters must look like"),
        ([record(1, name=["a"])], "name must be text, not"),
        ([record(1, program={"code": "x = 1"})], "program must be text, not"),
        ([record(1, program="x = '\ud800'")], "program holds half of a surrogate pair"),
        ([record(1, result=[1])], "result must be an object"),
        ([record(1, result={"train": [1]})], "train must be text, not"),
        ([record(1, result={"train": f",1\nm,{'1' * 200_000}\n"})], "train is not a CSV table"),
        ([record(1, program="x = 1\n" * 50_000)], "program has 300000 bytes"),
    ],
)
def test_a_broken_record_is_refused_with_its_index(
    tmp_path: Path, records: list[dict[str, object]], named: str
) -> None:
    """Nothing is half-imported."""
    with pytest.raises(BadArchive, match=named):
        read_published(archive(tmp_path, *records))


def test_columns_that_are_no_steps_are_skipped(tmp_path: Path) -> None:
    """As unnamed columns of averages are."""
    path = archive(tmp_path, record(1, result={"train": ",inf,nan,-5,1e30,mean,100\nm,1,1,1,1,1,2.5\n"}))

    assert read_published(path).records[0].curve == ((100, 2.5),)


def test_prose_that_is_cut_on_publishing_is_no_reason_to_refuse_a_record(tmp_path: Path) -> None:
    """Only programs and numbers are kept whole."""
    assert read_published(archive(tmp_path, record(1, program="x = 1", motivation="why " * 100_000))).records


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    """Editors and exports on Windows write one."""
    (tmp_path / "106.json").write_text(json.dumps([record(1)]), encoding="utf-8-sig")

    assert [published.index for published in read_published(tmp_path).records] == [1]


@pytest.mark.parametrize("text", ["[" * 100_000, "", "{}"])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, text: str) -> None:
    """However deeply it is nested."""
    (tmp_path / "106.json").write_text(text)
    with pytest.raises(BadArchive, match=r"106\.json"):
        read_published(tmp_path)


def test_a_folder_named_like_a_program_and_a_program_too_large_are_named(tmp_path: Path) -> None:
    """Both would otherwise end the import of all others."""
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "large.py").write_text("x = 1\n" * 50_000)
    (tmp_path / "nul.py").write_text("x = 1\0")
    (tmp_path / "sound.py").write_text("x = 1\n")
    archive = read_programs(tmp_path, skip_bad=True)

    assert [record.name for record in archive.records] == ["sound"]
    assert [problem.split(" is not ")[0] for problem in archive.left_out] == ["folder.py", "large.py", "nul.py"]


def test_skip_bad_takes_the_rest_and_lists_what_it_left_out(tmp_path: Path) -> None:
    """A cycle, an orphan, and what descends from them."""
    path = archive(
        tmp_path, record(1), record(2, 1), record(3, 99), record(4, 3), record(5, 6), record(6, 5), record(7, 6)
    )
    read_back = read_published(path, skip_bad=True)

    assert [published.index for published in read_back.records] == [1, 2]
    assert len(read_back.left_out) == 5


def test_details_without_the_tree_are_imported_as_roots_when_asked(tmp_path: Path) -> None:
    """Most of the 106 records' parents are in the published tree only."""
    path = archive(tmp_path, record(880, 649), record(881, 880), record(5, 6), record(6, 5))
    with pytest.raises(BadArchive, match="--detach makes roots"):
        read_published(path)
    read_back = read_published(path, skip_bad=True, detach=True)

    assert [(published.index, published.parent) for published in read_back.records] == [(880, None), (881, 880)]
    assert len(read_back.left_out) == 2


def test_an_export_imports_to_the_same_events(tmp_path: Path) -> None:
    """Round and round, nothing is lost or added."""
    tables = {"train": ",1,2\nm,3.0,2.0\n", "test": ",a\nm,0.25\n"}
    path = archive(tmp_path, record(1, program="x = 1", motivation="why", summary="what", result=tables), record(5, 1))
    events = events_of("pub", read_published(path).records, "asi-arch")
    write_published([event.candidate_imported.record for event in events[1:]], tmp_path / "out")

    assert events_of("pub", read_published(tmp_path / "out").records, "asi-arch") == events
