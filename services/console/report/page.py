"""One HTML page that opens without a network: figures inline, tables, and links to the files beside it."""

import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG

from services.console.commands.gallery import sentences
from services.console.report.ablations import ablations
from services.console.report.cards import gallery_section
from services.console.report.dataset import Dataset, name_of
from services.console.report.discoveries import discoveries
from services.console.report.drawing import Drawing
from services.console.report.figures import drawings
from services.console.report.stopping import stopping
from services.console.report.tables import tables
from services.console.tables import clock
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb

ENDED = ("finished", "stopped")
STYLE = """
:root{color-scheme:light dark}body{font:16px/1.55 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;
color:#1f2933;background:#fff}h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.4rem}
.soft{color:#616e7c}figure{margin:1rem 0}figure svg{max-width:100%;height:auto;background:#fff}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}td,th{padding:.25rem .6rem;
border-bottom:1px solid #e4e7eb;text-align:right}td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}
.wide{overflow-x:auto}a{color:#2563a8}
dt{font-weight:600;margin-top:.4rem}dd{margin-left:0}h3{margin:.2rem 0}article{margin:.6rem 0}
.missing{padding:.6rem 1rem;background:#f5f7fa;border-left:3px solid #9aa5b1}
@media(prefers-color-scheme:dark){body{background:#15191e;color:#dde3ea}.missing{background:#1f252c}
td,th{border-color:#323a44}.soft{color:#9aa5b1}a{color:#7fb3e6}}
"""


def write_report(status: archive_pb2.RunStatus, records: Sequence[pb.Candidate], folder: Path) -> Path:
    """Write index.html with its figures (PNG, SVG) and CSV files below `folder`; the path of the page."""
    data = Dataset.of(status, records)
    folder.mkdir(parents=True, exist_ok=True)
    claims, *rest = discoveries(data)
    sections = [_section(claims, folder), gallery_section(data, folder)]
    sections += [
        _section(one, folder) for one in (*rest, *ablations(data), *tables(data), *drawings(data), stopping(data))
    ]
    page = folder / "index.html"
    page.write_text(_page(data, sections), encoding="utf-8")
    return page


def _section(drawing: Drawing, folder: Path) -> str:
    if drawing.missing:
        return f'<h2>{escape(drawing.title)}</h2><p class="missing">Not drawn: {escape(drawing.missing)}.</p>'
    _write_csv(drawing, folder / f"{drawing.name}.csv")
    files = [f"{drawing.name}.csv"]
    if drawing.figure is not None:
        FigureCanvasAgg(drawing.figure).print_png(folder / f"{drawing.name}.png")  # type: ignore[no-untyped-call]
        text = io.StringIO()
        FigureCanvasSVG(drawing.figure).print_svg(text)  # type: ignore[no-untyped-call]
        svg = text.getvalue()
        (folder / f"{drawing.name}.svg").write_text(svg, encoding="utf-8")
        body = f'<figure role="img" aria-label="{escape(drawing.title)}">{svg[svg.index("<svg") :]}</figure>'
        files += [f"{drawing.name}.png", f"{drawing.name}.svg"]
    else:
        body = _table(drawing)
    links = " · ".join(f'<a href="{name}">{name.rsplit(".", 1)[1]}</a>' for name in files)
    return f'<h2>{escape(drawing.title)}</h2>{body}<p class="soft">{escape(drawing.caption)} {links}</p>'


def _write_csv(drawing: Drawing, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(drawing.header)
        writer.writerows(["" if cell is None else cell for cell in row] for row in drawing.cells)


def _table(drawing: Drawing) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in drawing.header)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in drawing.cells)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else escape(str(value))


def _page(data: Dataset, sections: Sequence[str]) -> str:
    status = data.status
    best = data.ranked[0] if data.ranked else None
    facts = [
        f"{status.phase}{f' ({status.stop_reason})' if status.stop_reason else ''}",
        f"{len(data.records)} candidates, {len(data.scored)} scored",
        f"{clock(status.spent.seconds)} wall time, {clock(status.spent.training_seconds)} of training",
        f"scale {status.settings.scale}, mind {status.settings.mind}, {status.sequence} events",
    ]
    lead = "Nothing is scored yet."
    if best is not None:
        loss = f", loss {best.training.loss:.4f}" if best.training.HasField("loss") else ""
        lead = f"Best: {escape(name_of(best))} ({escape(best.id)}), fitness {best.verdict.fitness.value:.3f}{loss}."
    told = "".join(f"<p>{escape(line.strip())}</p>" for line in _told(data))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Run {escape(status.run)}</title><style>{STYLE}</style><h1>Run {escape(status.run)}</h1>"
        f'<p class="soft">{escape(" · ".join(facts))}</p><p>{lead} Differences after one seed are a filter, not a '
        f"discovery.</p>{told}{''.join(sections)}</html>"
    )


def _told(data: Dataset) -> list[str]:
    """What was found and how sure it is; while the run goes on, that it cannot be told yet."""
    settings = data.status.settings
    if settings.promotion in ("", "none"):
        return []
    if data.status.phase not in ENDED and not any(one.HasField("discovery") for one in data.records):
        return ["What was found is told when the second trainings of the finalists have ended."]
    return sentences(data.records, settings)
