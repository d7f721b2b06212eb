"""How a run was made, in a paragraph that can stand in a paper, and how it is cited: both from its own record."""

import re
from collections import Counter
from datetime import UTC

from services.console.report.dataset import Dataset
from services.contracts import candidate_pb2 as pb

PAPER = """@misc{asiarch2025,
  title         = {{AlphaGo Moment for Model Architecture Discovery}},
  year          = {2025},
  eprint        = {2507.18074},
  archiveprefix = {arXiv}
}"""


def methods(data: Dataset) -> str:
    """What was run, on what, how candidates were chosen, scored and verified."""
    status, settings = data.status, data.status.settings
    if status.origin.startswith("imported"):
        held = sum(1 for one in data.records if one.training.seeds)
        return (
            f"The {len(data.records)} records of run {status.run} were {status.origin}; nothing of them was measured "
            f"here. {len(data.scored)} hold a score in the sum form of the published code (0 to 3), {held} also hold a "
            "training curve, benchmark scores or a parameter count. The mean accuracy is that of ARC-Challenge, "
            "ARC-Easy, BoolQ, HellaSwag, PIQA, Social IQA and WinoGrande where all seven are there."
        )
    kinds = Counter(one.kind for one in data.records)
    overrides = ", ".join(f"{key} = {value}" for key, value in sorted(settings.scale_overrides.items()))
    scale = f"{settings.scale} ({overrides})" if overrides else settings.scale
    sentences = [
        f"Run {status.run} searched for token mixers at scale {scale}: "
        f"{kinds[pb.KIND_PROPOSAL]} candidates by the mind “{settings.mind}”, {settings.seats} in flight at a time, "
        f"seed {settings.seed}.",
        f"Each was trained with {settings.candidate_seeds} seed{'s' if settings.candidate_seeds != 1 else ''}; the "
        f"controls {', '.join(settings.baselines)} were trained under the same configuration with "
        f"{settings.baseline_seeds or 1}, and {settings.baselines[0] if settings.baselines else 'the first'} is the "
        "root that all differences refer to.",
    ]
    if settings.pool.size:
        sentences.append(
            f"Parents were drawn by the policy “{settings.parent_policy or 'paper'}” from the best "
            f"{settings.pool.parents} of a pool of {settings.pool.size}, with {settings.pool.references} references, "
            f"after {settings.pool.cold_start} first explorations and then renewed every {settings.pool.batch} entries."
        )
    sentences.append(
        f"Fitness is that of the {settings.fitness} (loss, benchmark and judge against the root). Losses are held-out "
        "nats per token, computed outside the process that runs a candidate's code."
    )
    if settings.promotion not in ("", "none"):
        sentences.append(
            f"Finalists were chosen by “{settings.promotion}” and trained again with fresh seeds on data that no "
            "selection has seen; a discovery is confirmed against the strongest control, with p adjusted for all tried."
        )
    sentences.append(_machine(data))
    return " ".join(one for one in sentences if one)


def _machine(data: Dataset) -> str:
    measured = [seed.measurements for one in data.measured for seed in one.training.seeds]
    devices = Counter(one.device_name or one.device for one in measured if one.device_name or one.device)
    if not devices:
        return ""
    first = next(one for one in measured if one.device_name or one.device)
    versions = ", ".join(f"{name} {first.versions[name]}" for name in sorted(first.versions))
    hours = sum(one.seconds for one in measured) / 3600
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
    note = f"{status.sequence} events, seed {status.settings.seed}, mind {status.settings.mind}"
    escape = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "{": "", "}": "", "\\": ""}
    lines = [
        f"@misc{{{key},",
        f"  title = {{{{{''.join(escape.get(letter, letter) for letter in title)}}}}},",
        *([f"  year  = {{{moment.year}}},", f"  month = {{{moment.month}}},"] if moment else []),
        f"  note  = {{{''.join(escape.get(letter, letter) for letter in note)}}}",
        "}",
    ]
    return "\n".join(lines) + "\n\n" + PAPER + "\n"
