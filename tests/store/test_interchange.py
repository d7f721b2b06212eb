"""Published archives and exported logs: in, out, and in again."""

import gzip
import json
from pathlib import Path

import bson
import bson.json_util
import pytest

from services.store.importing import BadArchive, events_of, read_programs, read_published
from services.store.published import candidate_of, write_published


def record(index: object, parent: object = None, **more: object) -> dict[str, object]:
    return {"index": index, "name": f"delta_net_{index}", "parent": parent, "score": 1.5, **more}


def archive(tmp_path: Path, *records: dict[str, object]) -> Path:
    tmp_path.mkdir(exist_ok=True)
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


def test_names_that_would_look_the_same_are_the_same(tmp_path: Path) -> None:
    """Letters are composed, spaces around a name are left out, and a name of spaces is none."""
    path = archive(tmp_path, record(1, name="Caf\u00e9"), record(2, name=" Cafe\u0301"), record(3, name_new="  "))
    (tmp_path / "Cafe\u0301.py").write_text("x = 1\n")
    names = [candidate.name for candidate in read_published(path).records]
    names += [candidate.name for candidate in read_programs(tmp_path).records]

    assert names == ["Caf\u00e9", "Caf\u00e9", "delta_net_3", "Caf\u00e9"]


def test_a_folder_of_programs_becomes_candidates_without_scores(tmp_path: Path) -> None:
    """Their docstrings say what they are for; a file that is no program is named, or left out."""
    (tmp_path / "mine.py").write_text('"""Forgets slowly."""\nx = 1\n')
    (tmp_path / "broken.py").write_text("x = (")
    with pytest.raises(BadArchive, match=r"broken\.py is not a Python program"):
        read_programs(tmp_path)
    with pytest.raises(BadArchive, match=r"there is no folder .*mine\.py"):
        read_programs(tmp_path / "mine.py")
    archive = read_programs(tmp_path, skip_bad=True)
    candidate = candidate_of("own", archive.records[0])

    assert (candidate.proposal.name, candidate.proposal.motivation) == ("mine", "Forgets slowly.")
    assert not candidate.HasField("training")
    assert archive.left_out[0].startswith("broken.py")


def test_the_mean_accuracy_is_that_of_the_papers_tables_or_absent(tmp_path: Path) -> None:
    """Seven tasks, all of them; recall tasks and perplexities do not count."""
    seven = ("arc_challenge", "arc_easy", "boolq", "hellaswag", "piqa", "social_iqa", "winogrande")
    complete = f",{','.join(seven)},swde,wikitext_ppl,loss,glossary\nm,0.2,0.4,0.6,0.3,0.6,0.4,0.3,0.05,38.1,2.5,0.7\n"
    path = archive(tmp_path, record(1, result={"test": complete}), record(2, result={"test": ",boolq\nm,0.6\n"}))
    full, part = (candidate_of("pub", published).training for published in read_published(path).records)

    assert full.benchmark == pytest.approx(0.4)
    assert not part.HasField("benchmark")
    metrics = {score.task: score.metric for score in full.seeds[0].scores}
    assert [metrics[task] for task in ("wikitext_ppl", "loss", "glossary")] == ["perplexity", "loss", "acc"]


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
        ([record(1, 8), record(2, 1), record(3, 2)], "2: its parent 1 is skipped; record 3: its parent 2 is skipped"),
        ([record(1), record(1, score=2)], "index 1 occurs twice"),
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
        ([record(1, score=float("inf"))], "score must be a number"),
        ([record(1), record(2, 1.5)], r"106\.json, record 2 \(index 2\): parent must be an index or null, not 1\.5"),
        ([record("1")], r"record 1 \(index '1'\): index must be a whole number"),
        ([record(1, result={"train": ",100,200,300\nm,3,2\n"})], "train has 3 titles, but 2 values"),
        ([record(1, result={"test": ",boolq\nm,0.5,0.4\n"})], "test has 1 titles, but 2 values"),
        ([record(1, result={"test": ",boolq,boolq\nm,0.5,0.4\n"})], "test: 2 columns have the title 'boolq'"),
        ([record(1, result={"test": ",boolq\nm,0.5\nn,0.4\n"})], "test has 2 rows of values"),
        ([record(1, score_version="best")], "score_version must be one of"),
    ],
)
def test_a_broken_record_is_refused_with_its_index(
    tmp_path: Path, records: list[dict[str, object]], named: str
) -> None:
    """Nothing is half-imported."""
    with pytest.raises(BadArchive, match=named):
        read_published(archive(tmp_path, *records))


def test_a_table_without_a_title_for_its_names_is_read(tmp_path: Path) -> None:
    """Its header has as many titles as there are values; with an empty one among them it has one too few."""
    path = archive(tmp_path, record(1, result={"train": "0,10,20\nm,0.7,0.5,0.4\n", "test": "boolq\nm,0.5\n"}))
    (published,) = read_published(path).records

    assert published.curve == ((0, 0.7), (10, 0.5), (20, 0.4))
    assert published.benchmarks == {"boolq": 0.5}


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


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "", "{}", '["x"]', '{"id": "a", "code": "x = 1", "parent_id": null}', "x"]
)
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, text: str) -> None:
    """However deeply it is nested, and also where bad records are skipped."""
    (tmp_path / "106.json").write_text(text)
    for skip_bad in (False, True):
        with pytest.raises(BadArchive, match="106.json" if text else "holds no record"):
            read_published(tmp_path, skip_bad)


RELAXED, CANONICAL = bson.json_util.RELAXED_JSON_OPTIONS, bson.json_util.CANONICAL_JSON_OPTIONS


def documents() -> list[dict[str, object]]:
    """Two records as ASI-Arch's code stores them in MongoDB."""
    tables = {"train": "step,100,200\nloss,3.1,nan", "test": "Model,ARC Easy,Social IQA\nm,0.5,0.4"}
    extra = {"_id": bson.ObjectId("6" * 24), "time": "2025-06-01 10:00:00", "cognition": "papers", "log": "none"}
    return [
        record(1, result=tables, program="x = 1", motivation="none", analysis="It gains.", **extra),
        record(2, 1, result=tables, score=float("nan"), summary="what"),
    ]


def lines(options: bson.json_util.JSONOptions) -> str:
    return "\r\n".join(bson.json_util.dumps(document, json_options=options) for document in documents())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", lines(RELAXED).encode()),
        ("lines.jsonl", lines(CANONICAL).encode()),
        ("utf16.json", lines(CANONICAL).encode("utf-16")),
        ("list.json", bson.json_util.dumps(documents(), json_options=RELAXED).encode()),
        ("list.json.gz", gzip.compress(bson.json_util.dumps(documents(), json_options=CANONICAL).encode())),
        ("data_elements.bson", b"".join(map(bson.encode, documents()))),
        ("data_elements.bson.gz", gzip.compress(b"".join(map(bson.encode, documents())))),
    ],
)
def test_what_mongoexport_and_mongodump_write_of_the_database_is_read(
    tmp_path: Path, name: str, content: bytes
) -> None:
    """All forms give the same records; "none" is how ASI-Arch writes that a text is missing."""
    (tmp_path / name).write_bytes(content)
    (tmp_path / "data_elements.metadata.json").write_text('{"indexes": []}')
    for path in (tmp_path, tmp_path / name):
        archive = read_published(path)
        first, second = archive.records

        assert (first.parent, second.parent, first.score, second.score) == (None, 1, 1.5, None)
        assert (first.curve, dict(first.benchmarks)) == (((100, 3.1),), {"ARC Easy": 0.5, "Social IQA": 0.4})
        assert (first.motivation, candidate_of("r", first).analysis.explanation) == ("", "It gains.")
        assert archive.other_fields == ("_id", "cognition", "time")


def test_a_candidate_storage_and_numbers_of_pandas_are_read(tmp_path: Path) -> None:
    """A column of parents with an absent one becomes one of floats."""
    candidates = [record(1, float("nan")), record(2.0, 1.0, motivation=float("nan"))]
    (tmp_path / "candidate_storage.json").write_text(json.dumps({"candidates": candidates, "new_data_count": 0}))

    assert [(one.index, one.parent, one.motivation) for one in read_published(tmp_path).records] == [
        (1, None, ""),
        (2, 1, ""),
    ]


def test_the_only_list_of_a_report_is_its_records(tmp_path: Path) -> None:
    """A search's summary names the list as it likes; of several, none is guessed, and what it has is listed whole."""
    report: dict[str, object] = {"timestamp": "2025", "breakthrough_rate": 0.5, "best_architectures": [record(1)]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert [published.index for published in read_published(tmp_path).records] == [1]

    (tmp_path / "report.json").write_text(json.dumps(report | {"islands_of_the_population": [[1]], "archive": [1]}))
    held = r"timestamp, breakthrough_rate, best_architectures, islands_of_the_population, …\."
    with pytest.raises(BadArchive, match=f"line 1 has no index, name or program, but has {held}"):
        read_published(tmp_path)


def test_equal_records_of_two_files_are_one_and_others_are_refused_with_both_places(tmp_path: Path) -> None:
    """Such as the collection and the candidate storage of one database."""
    (tmp_path / "b.json").write_text(json.dumps([record(1), record(2, 1)]))
    archive(tmp_path, record(1))
    assert len(read_published(tmp_path).records) == 2

    (tmp_path / "b.json").write_text(json.dumps([record(3), record(1, score=2)]))
    with pytest.raises(BadArchive, match=r"b\.json, record 2: index 1 occurs twice, .* in 106\.json, record 1\."):
        read_published(tmp_path)


@pytest.mark.parametrize("damage", ["json", "bson", "gz"])
def test_a_truncated_file_is_refused_or_read_up_to_the_fault(tmp_path: Path, damage: str) -> None:
    """The rest is reported as left out, with its place."""
    content = lines(RELAXED).encode() if damage == "json" else b"".join(map(bson.encode, documents()))
    path = tmp_path / f"data_elements.{damage}"
    path.write_bytes(content[:-9] if damage != "gz" else gzip.compress(content)[:-9])
    with pytest.raises(
        BadArchive, match=rf"data_elements\.{damage} cannot be read{'' if damage == 'gz' else ' to its end'}: "
    ):
        read_published(path)
    if damage == "gz":
        return
    archive = read_published(path, skip_bad=True)

    assert [published.index for published in archive.records] == [1]
    assert len(archive.left_out) == 1


def test_names_with_separators_of_lines_do_not_divide_tables(tmp_path: Path) -> None:
    """The name is the first cell of each table."""
    path = archive(tmp_path, record(1, name="a\u2028b", program="x = 1", result={"test": ",a\na\u2028b,0.25\n"}))
    (published,) = read_published(path).records

    assert published.benchmarks == {"a": 0.25}


def test_a_mean_accuracy_is_found_under_the_titles_of_the_code(tmp_path: Path) -> None:
    """Which writes tasks in words."""
    titles = "Model,ARC Challenge,ARC Easy,BoolQ,HellaSwag,PIQA,Social IQA,WinoGrande,Average"
    path = archive(tmp_path, record(1, result={"test": f"{titles}\nm,0.2,0.4,0.6,0.3,0.6,0.4,0.3,0.9"}))

    assert read_published(path).records[0].mean_accuracy == pytest.approx(0.4)


def test_a_fitness_that_is_no_score_of_the_code_keeps_its_version(tmp_path: Path) -> None:
    """Else a standardised gain would be shown as a score of the paper."""
    path = archive(tmp_path / "in", record(1, score=21.5, score_version="standardised-gain-1"))
    events = events_of("pub", read_published(path).records, "asi-arch")
    write_published([event.candidate_imported.record for event in events[1:]], tmp_path / "out")

    assert events[0].run_started.settings.fitness == "standardised-gain-1"
    assert events_of("pub", read_published(tmp_path / "out").records, "asi-arch") == events


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
    path = archive(
        tmp_path,
        record(1, program="x = 1", motivation="why", analysis="as", summary="what", result=tables),
        record(5, 1),
    )
    events = events_of("pub", read_published(path).records, "asi-arch")
    write_published([event.candidate_imported.record for event in events[1:]], tmp_path / "out")

    assert events_of("pub", read_published(tmp_path / "out").records, "asi-arch") == events
