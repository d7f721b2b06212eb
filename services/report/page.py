"""The report of a run: one self-contained HTML page, figures, tables and their data as CSV.

All content comes from the archive, including the methods paragraph and the citation.
"""

import csv
import html
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG

from services.archive.policies import parent_policy
from services.archive.scoring import objectives_of
from services.chassis.errors import NotPossible, printable
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb
from services.contracts.events_pb2 import RunSettings
from services.domain.fitness import STANDARDISED_GAIN
from services.domain.objectives import LOWER_IS_BETTER, metric_of
from services.report import dataset, figures
from services.report.claims import ModelCard, cards, sentences
from services.report.comparisons import Trained
from services.report.dataset import Dataset, Drawing
from services.report.discoveries import discoveries
from services.report.lineage import ablations, radial_tree, tree, what_pays
from services.report.progress import OVER
from services.report.rows import clock, name_of, number

PAPER = """@misc{asiarch2025,
  title         = {{AlphaGo Moment for Model Architecture Discovery}},
  year          = {2025},
  eprint        = {2507.18074},
  archiveprefix = {arXiv}
}"""


def methods(data: Dataset) -> str:
    """The methods: configuration, hardware, selection, scoring and verification of candidates."""
    status, settings = data.status, data.status.settings
    if status.origin.startswith("imported"):
        form = " in the sum form of the published code (0 to 3)" if settings.fitness == "code" else ""
        return (
            f"The {len(data.records)} records of run {status.run} were {status.origin}; none of them was measured "
            f"here. {len(data.scored)} hold a score{form}, "
            f"{len(data.measured)} also hold a training curve, benchmark scores or a parameter count. The mean "
            "accuracy is that of ARC-Challenge, ARC-Easy, BoolQ, HellaSwag, PIQA, Social IQA and WinoGrande if "
            "all seven are known."
        )
    kinds = Counter(record.kind for record in data.records)
    overrides = ", ".join(f"{key} = {value}" for key, value in sorted(settings.scale_overrides.items()))
    scale = f"{settings.scale} ({overrides})" if overrides else settings.scale
    sentences = [
        f"Run {status.run} searched for token mixers at scale {scale}: "
        f"{kinds[pb.KIND_PROPOSAL]} candidates by the mind “{settings.mind}”, {settings.seats} in flight at a time, "
        f"seed {settings.seed}.",
        f"Each was trained with {settings.candidate_seeds} seed{'s' if settings.candidate_seeds != 1 else ''}; the "
        f"controls {', '.join(settings.baselines)} were trained under the same configuration with "
        f"{settings.baseline_seeds or 1}, and {settings.baselines[0] if settings.baselines else 'the first'} is the "
        "root, to which all differences refer.",
    ]
    if settings.pool.size:
        sentences.append(_selection(settings))
    combined = "the gain over the root in loss and benchmark, in units of its noise"
    if settings.fitness not in ("", STANDARDISED_GAIN):
        combined = "loss, benchmark and judge against the root, in saturating terms"
    sentences.append(
        f"Fitness ({settings.fitness or STANDARDISED_GAIN}) is {combined}. Losses are held-out nats per token, "
        "computed outside the process that runs a candidate's code."
    )
    if objectives := objectives_of(settings):
        sentences.append(
            f"Parents and finalists were chosen by {', '.join(objective.name for objective in objectives)} together, "
            "by rounds of non-dominated sorting and by crowding distance (NSGA-II)."
        )
    if settings.promotion not in ("", "none"):
        sentences.append(
            f"Finalists were chosen by “{settings.promotion}” and trained again with fresh seeds on data not "
            "used for selection; a discovery is confirmed against every control, with p adjusted for all tried. "
            "Intervals of claims cover other seeds, but not other held-out text."
        )
    sentences.append(_machine(data))
    return " ".join(sentence for sentence in sentences if sentence)


def _selection(settings: RunSettings) -> str:
    """How parents and references were drawn."""
    pool, policy = settings.pool, parent_policy(settings)
    if policy == "paper":
        parents = f"uniformly from the best {pool.parents} of a pool of {pool.size}"
    elif policy == "power-law":
        parents = f"from a pool of {pool.size} by a power law of the rank"
    else:
        parents = f"from all scored candidates by the policy “{policy}”"
    return (
        f"Each proposal was offered a parent, drawn {parents}, and {pool.references} references from the pool, "
        f"which was filled after {pool.cold_start} entries and renewed after every further {pool.batch}."
    )


def _machine(data: Dataset) -> str:
    measured = [seed.measurements for record in data.measured for seed in record.training.seeds]
    named = [measurement for measurement in measured if measurement.device_name or measurement.device]
    if not named:
        return ""
    devices, first = dict.fromkeys(measurement.device_name or measurement.device for measurement in named), named[0]
    versions = ", ".join(f"{name} {first.versions[name]}" for name in sorted(first.versions))
    hours = sum(measurement.seconds for measurement in measured) / 3600
    parts = [
        f"{hours:.2f} hours of training and evaluation were spent on {', '.join(devices)}",
        f"in {first.precision}" if first.precision else "",
        f"with {versions}" if versions else "",
        f"under isolation “{first.isolation}”" if first.isolation else "",
        f"on data of fingerprint {first.data_fingerprint[:16]}" if first.data_fingerprint else "",
    ]
    return " ".join(part for part in parts if part) + "."


def bibtex(data: Dataset) -> str:
    """An entry for the run, and one for the paper whose method it follows."""
    status = data.status
    when = status.started if status.HasField("started") else status.changed
    moment = when.ToDatetime(UTC) if when.seconds else None
    key = re.sub(r"[^A-Za-z0-9]+", "", f"asiarch{status.run}")
    title = f"Run {status.run} of ASI-Arch: {len(data.records)} token mixers at scale {status.settings.scale}"
    note = f"{status.events} events, seed {status.settings.seed}, mind {status.settings.mind}"
    escape = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "{": "", "}": "", "\\": ""}
    lines = [
        f"@misc{{{key},",
        f"  title = {{{{{''.join(escape.get(letter, letter) for letter in title)}}}}},",
        *([f"  year  = {{{moment.year}}},", f"  month = {{{moment.month}}},"] if moment else []),
        f"  note  = {{{''.join(escape.get(letter, letter) for letter in note)}}}",
        "}",
    ]
    return "\n".join(lines) + "\n\n" + PAPER + "\n"


STYLE = """
:root{color-scheme:light dark}body{font:16px/1.55 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;
overflow-wrap:break-word;color:#1f2933;background:#fff}h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.4rem}
.soft{color:#616e7c}figure{margin:1rem 0}figure svg{max-width:100%;height:auto;background:#fff;border-radius:6px}
pre{overflow:auto;font-size:.85rem}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}td,th{padding:.25rem .6rem;
border-bottom:1px solid #e4e7eb;text-align:right}td{white-space:nowrap}
.text{text-align:left}.wide{overflow-x:auto}a{color:#2563a8}
dt{font-weight:600;margin-top:.4rem}dd{margin-left:0}h3{margin:.2rem 0}article{margin:.6rem 0}
.missing{padding:.6rem 1rem;background:#f5f7fa;border-left:3px solid #9aa5b1}
@media(prefers-color-scheme:dark){body{background:#15191e;color:#dde3ea}.missing{background:#1f252c}
td,th{border-color:#323a44}.soft{color:#9aa5b1}a{color:#7fb3e6}}
"""


def write_report(
    status: archive_pb2.RunStatus,
    records: Sequence[pb.Candidate],
    folder: Path,
    sizes: Sequence[Trained] = (),
    ablated: Sequence[Trained] = (),
) -> Path:
    """Write index.html with its figures (PNG, SVG, PDF) and CSV files below `folder`; the path of the page.

    `sizes` are the trainings of `asi-arch sizes`, and `ablated` those of `asi-arch ablate --programs`. Raises
    NotPossible if the folder cannot be written.
    """
    try:
        with rc_context({"text.parse_math": False}):  # else a name with two dollar signs is read as a formula
            return _write(Dataset(status, records, sizes, ablated), folder)
    except OSError as error:
        raise NotPossible(f"the report cannot be written to {folder}: {error.strerror or error}") from error


def _write(data: Dataset, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    claims, *rest = discoveries(data)
    drawings = [
        *rest, figures.count_against_compute(data), figures.trends(data), figures.front(data),
        figures.pool_over_time(data), figures.parameter_counts(data), figures.curves(data), tree(data),
        radial_tree(data), what_pays(data), *ablations(data), dataset.benchmarks(data),
        dataset.components(data), dataset.origins(data), dataset.holdings(data), figures.stopping(data),
    ]  # fmt: skip
    sections = ["" if claims.missing else _section(claims, folder), gallery_section(data, folder)]
    sections += [_section(drawing, folder) for drawing in drawings if not drawing.missing]
    absent = [drawing for drawing in (claims, *drawings) if drawing.missing]
    lines = "".join(f"<li>{escape(drawing.title)}: {escape(drawing.missing)}.</li>" for drawing in absent)
    sections.append(f'<h2>Not drawn</h2><ul class="missing">{lines}</ul>' if lines else "")
    (folder / "methods.txt").write_text(methods(data) + "\n", encoding="utf-8")
    (folder / "references.bib").write_text(bibtex(data), encoding="utf-8")
    page = folder / "index.html"
    page.write_text(_page(data, sections), encoding="utf-8")
    return page


def escape(text: str) -> str:
    return html.escape(printable(text))


def _section(drawing: Drawing, folder: Path) -> str:
    with (folder / f"{drawing.name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([map(_inert, row) for row in (drawing.header, *drawing.cells)])
    files = [f"{drawing.name}.csv"]
    if drawing.figure is not None:
        text = io.StringIO()
        with (
            warnings.catch_warnings(action="ignore", category=UserWarning),  # the font lacks letters of some names
            rc_context({"svg.fonttype": "none", "svg.hashsalt": drawing.name}),  # text stays text, for screen readers
        ):
            FigureCanvasAgg(drawing.figure).print_figure(folder / f"{drawing.name}.png", dpi=200)
            FigureCanvasPdf(drawing.figure).print_figure(folder / f"{drawing.name}.pdf")
            FigureCanvasSVG(drawing.figure).print_svg(text)  # type: ignore[no-untyped-call]
        svg = re.sub(r'\bid="([^"]+)"', rf'id="{drawing.name}-\1"', text.getvalue())  # unique ids within the page
        svg = re.sub(r'(url\(#|href="#)', rf"\1{drawing.name}-", svg)
        (folder / f"{drawing.name}.svg").write_text(svg, encoding="utf-8")
        body = f'<figure role="img" aria-label="{escape(drawing.title)}">{svg[svg.index("<svg") :]}</figure>'
        body += _table(drawing) if drawing.tabulated else ""
        files += [f"{drawing.name}.png", f"{drawing.name}.svg", f"{drawing.name}.pdf"]
    else:
        body = _table(drawing)
    links = " · ".join(f'<a href="{name}">{name.rsplit(".", 1)[1]}</a>' for name in files)
    return f'<h2>{escape(drawing.title)}</h2>{body}<p class="soft">{escape(drawing.caption)} {links}</p>'


def _inert(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: a name may begin like one."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _table(drawing: Drawing) -> str:
    texts = {column for row in drawing.cells for column, cell in enumerate(row) if isinstance(cell, str)}
    classes = [' class="text"' if column in texts else "" for column in range(len(drawing.header))]
    head = "".join(
        f'<th scope="col"{own}>{escape(title)}</th>' for own, title in zip(classes, drawing.header, strict=True)
    )
    best = _best_cells(drawing) if drawing.name.startswith("tables-1-2") else {}
    body = "".join(
        "<tr>" + "".join(_cell(cell, classes[n], cell == best.get(n)) for n, cell in enumerate(row)) + "</tr>"
        for row in drawing.cells
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _best_cells(drawing: Drawing) -> dict[int, float]:
    """The best value of each column: the highest of accuracies and scores, the lowest of losses."""
    best: dict[int, float] = {}
    for column, title in enumerate(drawing.header):
        values = [cell for row in drawing.cells if isinstance(cell := row[column], float)]
        if len(values) > 1 and title not in ("Δ low", "Δ high", "low", "high"):
            falling = title == "Δ root" or metric_of(title) in LOWER_IS_BETTER
            best[column] = min(values) if falling else max(values)
    return best


def _cell(value: object, attribute: str, best: bool) -> str:
    if value is None:
        return f"<td{attribute}>–</td>"
    if isinstance(value, float):
        text = f"{value:.2g}" if 0 < abs(value) < 1e-4 else f"{value:.4f}"
    else:
        text = f"{value:,}" if isinstance(value, int) else escape(str(value))
    return f"<td{attribute}><strong>{text}</strong></td>" if best else f"<td{attribute}>{text}</td>"


def _page(data: Dataset, sections: Sequence[str]) -> str:
    status = data.status
    best = data.ranked[0] if data.ranked else None
    facts = [
        f"{status.phase}{f' ({status.stop_reason})' if status.stop_reason else ''}",
        f"{len(data.records)} candidates, {len(data.scored)} scored",
        f"{clock(status.spent.seconds)} wall time, {clock(status.spent.training_seconds)} of training",
        f"scale {status.settings.scale}, mind {status.settings.mind}, {status.events} events",
    ]
    lead = "Nothing is scored yet."
    if best is not None:
        loss = f", loss {best.training.loss:.4f}" if best.training.HasField("loss") else ""
        fitness = number(best.verdict.fitness.value, ".3f")
        lead = f"Best: {escape(name_of(best))} ({escape(best.id)}), fitness {fitness}{loss}."
    findings = "".join(f"<p>{escape(line.strip())}</p>" for line in _findings(data))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Run {escape(status.run)}</title><style>{STYLE}</style><h1>Run {escape(status.run)}</h1>"
        f'<p class="soft">{escape(" · ".join(facts))}</p><p>{lead} Differences after one seed are a filter, not a '
        f"discovery.</p>{findings}<h2>Methods</h2><p>{escape(methods(data))}</p><details><summary>BibTeX</summary>"
        f"<pre>{escape(bibtex(data))}</pre></details>{''.join(sections)}</html>"
    )


def _findings(data: Dataset) -> list[str]:
    """The findings and their evidence, or that verification has not ended."""
    settings = data.status.settings
    if settings.promotion in ("", "none"):
        return []
    if data.status.phase not in OVER and not any(record.HasField("discovery") for record in data.records):
        return ["Findings appear here after the second trainings of the finalists."]
    return sentences(data.records, settings)


TITLE = "Gallery · Confirmed discoveries"


def gallery_section(data: Dataset, folder: Path) -> str:
    """The cards, greatest effect first, and `gallery.json`; a sentence if nothing was confirmed."""
    model_cards = cards(data.status, data.records)
    if not model_cards:
        return f'<h2>{TITLE}</h2><p class="missing">Empty: no claim of this run was confirmed.</p>'
    text = json.dumps([asdict(card) for card in model_cards], indent=2, ensure_ascii=False)
    (folder / "gallery.json").write_text(text, encoding="utf-8")
    body = "".join(map(_card, model_cards))
    return f'<h2>{TITLE}</h2>{body}<p class="soft"><a href="gallery.json">json</a></p>'


def _card(card: ModelCard) -> str:
    parts = (
        ("Evidence", (*card.evidence, card.compared)),
        ("Cost", card.cost or ("Not measured.",)),
        ("Lineage", (" → ".join(card.lineage),)),
    )
    facts = "".join(
        f"<dt>{title}</dt>" + "".join(f"<dd>{escape(line)}</dd>" for line in lines) for title, lines in parts
    )
    return (
        f'<article class="missing"><h3>{escape(card.name)} '
        f'<span class="soft">{escape(card.id)}</span></h3>'
        f"<p><strong>{escape(card.claim)}</strong></p><p>{escape(card.motivation)}</p><dl>{facts}</dl></article>"
    )
