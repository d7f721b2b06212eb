"""The published format of ASI-Arch: its records as candidates, and candidates as its files.

A record has an index, a name, the index of its parent, a score, texts, and the CSV tables `train` (training losses by
step) and `test` (benchmarks). What was not measured is absent, null, nan or an empty cell.
"""

import csv
import io
import json
import math
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.archive.scoring import program_of
from services.chassis.errors import SettingsError
from services.contracts import candidate_pb2 as pb
from services.domain.fitness import VERSIONS
from services.domain.objectives import metric_of
from services.domain.run_state import candidate_id
from services.domain.statistics import LARGEST
from services.domain.structure import fingerprint

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_STEP = re.compile(r"\d{1,9}(\.\d*)?")
_MAX_INDEX = 2**32 - 1
STAGE = "explore"
_TEXTS = ("program", "motivation", "analysis", "summary")
FIELDS = frozenset(("index", "name", "name_new", "parent", "score", "score_version", *_TEXTS, "parameters", "result"))
"""The fields that a candidate keeps."""
_AVERAGED = ("arc_challenge", "arc_easy", "boolq", "hellaswag", "piqa", "social_iqa", "winogrande")
"""The tasks whose accuracies the paper's tables average."""


@dataclass(frozen=True)
class Published:
    """A published record. `curve` is (step, training loss), `benchmarks` maps tasks to values.

    The scores of ASI-Arch are fitness of version "code"; `write_published` names the version of others.
    """

    index: int
    name: str
    parent: int | None
    score: float | None
    program: str = ""
    motivation: str = ""
    analysis: str = ""
    summary: str = ""
    score_version: str = "code"
    parameters: int | None = None
    curve: tuple[tuple[int, float], ...] = ()
    benchmarks: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_accuracy(self) -> float | None:
        """The paper's average; None unless all its tasks have an accuracy from 0 to 1."""
        benchmarks = {task.lower().replace(" ", "_"): value for task, value in self.benchmarks.items()}
        values = [benchmarks.get(task) for task in _AVERAGED]
        accuracies = [value for value in values if value is not None and 0 <= value <= 1]
        return math.fsum(accuracies) / len(accuracies) if len(accuracies) == len(_AVERAGED) else None


def is_absent(value: object) -> bool:
    """Whether a field holds nothing: null, nan, an empty text or list, or "none", which ASI-Arch writes for a missing
    text."""
    return value in (None, "", "none", [], {}) or value != value


def parsed_record(raw: Mapping[str, object]) -> Published:
    """The record with these fields. Raises ValueError naming the field that is invalid."""
    index, parent = _whole(raw.get("index")), _whole(raw.get("parent"))
    if index is None or not 0 <= index <= _MAX_INDEX:
        raise ValueError(f"index must be a whole number from 0 to {_MAX_INDEX}, not {reprlib.repr(raw.get('index'))}")
    if parent is None and not (raw.get("parent") is None or raw["parent"] != raw["parent"]):  # null or nan
        raise ValueError(f"parent must be an index or null, not {reprlib.repr(raw['parent'])}")
    tables = {} if is_absent(raw.get("result")) else raw["result"]
    if not isinstance(tables, Mapping):
        raise ValueError(f"result must be an object with the tables train and test, not {reprlib.repr(tables)}")
    version = _text(raw, "score_version") or "code"
    if version not in VERSIONS:
        raise ValueError(f"score_version must be one of {', '.join(VERSIONS)}, not {reprlib.repr(version)}")
    train = _cells(tables, "train")
    return Published(
        index=index,
        name=name_from(_text(raw, "name_new")) or name_from(_text(raw, "name")) or f"record {index}",
        parent=parent,
        score=_finite(raw.get("score"), "score"),
        score_version=version,
        **{name: _text(raw, name) for name in _TEXTS},
        parameters=_parameters(raw.get("parameters")),
        curve=tuple(sorted((int(float(step)), loss) for step, loss in train.items() if _STEP.fullmatch(step))),
        benchmarks=_cells(tables, "test"),
    )


def name_from(text: str) -> str:
    """A name in one form: two that differ in how letters are composed, or in spaces around, would look the same."""
    return unicodedata.normalize("NFC", text).strip()


def _text(raw: Mapping[str, object], name: str) -> str:
    """The text of a field, empty if it is absent."""
    value = "" if is_absent(raw.get(name)) else raw[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {reprlib.repr(value)}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} holds half of a surrogate pair, which is no character")
    return value


def _whole(value: object) -> int | None:
    """A whole number, also as pandas writes it, such as 3.0; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _finite(value: object, field_name: str) -> float | None:
    """A number, None for nan and null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
        raise ValueError(f"{field_name} must be a number, not {reprlib.repr(value)}")
    return None if math.isnan(value) else float(value)


def _parameters(value: object) -> int | None:
    """A count as in "495.73M"; None if it is absent."""
    if is_absent(value):
        return None
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d*)?)\s*([KMB]?)\s*", str(value), re.IGNORECASE | re.ASCII)
    if match is None or float(match[1]) * _UNITS[match[2].upper()] >= 2**63:
        raise ValueError(f"parameters must look like 495.73M, not {reprlib.repr(value)}")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def _cells(tables: Mapping[str, object], name: str) -> dict[str, float]:
    """The cells of a one-row CSV table by their titles; nan and empty ones and those without a title are skipped.

    The first column is the record's name; some writers, such as R's, give it no title, not even an empty one.
    """
    try:
        lines = csv.reader(io.StringIO(_text(tables, name), newline=""))
        rows = [row for row in lines if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{name} is not a CSV table: {error}") from None
    if len(rows) < 2:
        return {}
    if len(rows) > 2:
        raise ValueError(f"{name} has {len(rows) - 1} rows of values, but a record has one")
    titles = [title.strip() for title in rows[0]]
    if len(titles) == len(rows[1]) or not all(titles):
        del titles[0]
    if len(titles) != len(rows[1]) - 1:
        raise ValueError(f"{name} has {len(titles)} titles, but {len(rows[1]) - 1} values")
    for title, count in Counter(titles).items():
        if title and count > 1:
            raise ValueError(f"{name}: {count} columns have the title {title!r}")
    cells = {}
    for title, cell in zip(titles, rows[1][1:], strict=True):
        try:
            value = float(cell.strip() or "nan")
        except ValueError:
            raise ValueError(f"{name}: the cell {cell!r} under {title!r} is not a number") from None
        if title and abs(value) <= LARGEST:
            cells[title] = value
    return cells


def candidate_of(run: str, published: Published) -> pb.Candidate:
    """A published record as a candidate; absent fields stay unset."""
    record = pb.Candidate(
        id=candidate_id(published.index), run=run, kind=pb.KIND_IMPORTED, state=pb.STATE_ARCHIVED, stage=STAGE,
        request=pb.Request(number=published.index, mind="imported"),
    )  # fmt: skip
    record.proposal.CopyFrom(
        pb.Proposal(
            name=published.name,
            motivation=published.motivation,
            program=published.program,
            parent="" if published.parent is None else candidate_id(published.parent),
            structure=_structure(published.program),
            mind="imported",
        )
    )
    if published.curve or published.benchmarks or published.parameters is not None:
        record.training.CopyFrom(_training(published))
    if published.score is not None:
        record.verdict.fitness.CopyFrom(pb.Fitness(version=published.score_version, value=published.score))
    if published.summary or published.analysis:
        record.analysis.results, record.analysis.explanation = published.summary, published.analysis
    return record


def _training(published: Published) -> pb.Training:
    seed = pb.SeedResult(
        curve=[pb.CurvePoint(step=step, train_loss=loss) for step, loss in published.curve],
        scores=[
            pb.TaskScore(task=task, metric=metric_of(task), value=value) for task, value in published.benchmarks.items()
        ],
        measurements=pb.Measurements(parameters=published.parameters or 0),
    )
    # The published curve is the training loss; held-out losses were not published.
    return pb.Training(seeds=[seed], benchmark=published.mean_accuracy)


def _structure(program: str) -> str:
    try:
        return fingerprint(program).digest if program else ""
    except ValueError:
        return ""


_PUBLISHED = {"tree.json", "106.json"}


def write_published(records: Sequence[pb.Candidate], folder: Path) -> None:
    """Write `tree.json` and `106.json` as in the published archive; the index is the candidate's number.

    Raises SettingsError for a folder with other files.
    """
    if folder.exists() and not (folder.is_dir() and {file.name for file in folder.iterdir()} <= _PUBLISHED):
        raise SettingsError(f"{folder} exists already and holds other files: choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    index = {record.id: record.request.number for record in records}
    tree = [_node(record, index) for record in records]
    (folder / "tree.json").write_text(json.dumps({"total_records": len(tree), "results": tree}))
    details = [_details(record, index) for record in records]
    (folder / "106.json").write_text(json.dumps(details))


def _node(record: pb.Candidate, index: dict[str, int]) -> dict[str, object]:
    fitness = record.verdict.fitness if record.verdict.HasField("fitness") else None
    return {
        "index": record.request.number,
        "name": record.proposal.name,
        "parent": index.get(record.proposal.parent),
        "score": None if fitness is None else fitness.value,
        **({} if fitness is None or fitness.version == "code" else {"score_version": fitness.version}),
    }


def _details(record: pb.Candidate, index: dict[str, int]) -> dict[str, object]:
    seed = record.training.seeds[0] if record.training.seeds else pb.SeedResult()
    parameters = seed.measurements.parameters
    losses = [(str(point.step), point.train_loss) for point in seed.curve if point.HasField("train_loss")]
    return {
        **_node(record, index),
        "program": program_of(record),
        "motivation": record.proposal.motivation,
        "analysis": record.analysis.explanation,
        "summary": record.analysis.results,
        "parameters": f"{parameters / 1e6:.6f}M" if parameters else "",
        "result": {
            "train": _csv(record.proposal.name, losses),
            "test": _csv(record.proposal.name, [(score.task, score.value) for score in seed.scores]),
        },
    }


def _csv(name: str, cells: Sequence[tuple[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["", *(title for title, _ in cells)])
    writer.writerow([name, *(repr(value) for _, value in cells)])
    return text.getvalue()
