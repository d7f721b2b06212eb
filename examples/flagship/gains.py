"""The table of the flagship's second trainings, from its log alone: `python examples/flagship/gains.py`."""

import gzip
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

from services.domain.statistics import student_quantile

LOG = Path(__file__).with_name("log.jsonl.gz")
FINALISTS = ("c000017", "c000018")
Losses = dict[str, dict[str, float]]  # by candidate and seed


def measured() -> tuple[Losses, Losses]:
    """Losses of the fork's own verification on the run's text, and on text of another source."""
    code, prose = defaultdict[str, dict[str, float]](dict), defaultdict[str, dict[str, float]](dict)
    with gzip.open(LOG, "rt", encoding="utf-8") as lines:
        events = [json.loads(line)["event"] for line in lines]
    for event in events:
        for seed in event.get("candidate_verified", {}).get("training", {}).get("seeds", []):
            code[event["candidate"]][seed["seed"]] = seed["loss"]
            prose[event["candidate"]][seed["seed"]] = seed["other_text_loss"]
    return code, prose


def gain(losses: Losses, finalist: str, control: str) -> str:
    """Mean of the differences by seed, with its 95 % interval."""
    gains = [losses[control][seed] - loss for seed, loss in losses[finalist].items()]
    mean, reach = fmean(gains), student_quantile(0.975, len(gains) - 1) * stdev(gains) / len(gains) ** 0.5
    return f"{mean:+.4f} [{mean - reach:+.4f}, {mean + reach:+.4f}]"


def main() -> None:
    """Print a row for each candidate."""
    code, prose = measured()
    for name in sorted(code):
        others = [gain(losses, one, name) for one in FINALISTS if name not in FINALISTS for losses in (code, prose)]
        print(" | ".join((name, f"{fmean(code[name].values()):.4f}", f"{fmean(prose[name].values()):.4f}", *others)))


if __name__ == "__main__":
    main()
