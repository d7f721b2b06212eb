"""The gallery in the report: a model card for each confirmed discovery, as part of the page and as JSON beside it."""

import json
from html import escape
from pathlib import Path

from services.console.commands.gallery import card_json, cards
from services.console.report.dataset import Dataset
from services.domain.discovery import ModelCard

TITLE = "Gallery · Confirmed discoveries"


def gallery_section(data: Dataset, folder: Path) -> str:
    """The cards, greatest effect first, and `gallery.json`; a sentence where nothing was confirmed."""
    found = cards(data.status, data.records)
    if not found:
        return f'<h2>{TITLE}</h2><p class="missing">Empty: no claim of this run was confirmed.</p>'
    text = json.dumps([card_json(one) for one in found], indent=2, ensure_ascii=False)
    (folder / "gallery.json").write_text(text, encoding="utf-8")
    body = "".join(_card(one) for one in found)
    return f'<h2>{TITLE}</h2>{body}<p class="soft"><a href="gallery.json">json</a></p>'


def _card(one: ModelCard) -> str:
    parts = (
        ("Evidence", (*one.evidence, one.compared)),
        ("Cost", one.cost or ("Not measured.",)),
        ("Lineage", (" → ".join(one.lineage),)),
    )
    told = "".join(
        f"<dt>{title}</dt>" + "".join(f"<dd>{escape(line)}</dd>" for line in lines) for title, lines in parts
    )
    return (
        f'<article class="missing"><h3>{escape(one.facts.name)} <span class="soft">{escape(one.candidate)}</span></h3>'
        f"<p><strong>{escape(one.claim)}</strong></p><p>{escape(one.facts.motivation)}</p><dl>{told}</dl></article>"
    )
