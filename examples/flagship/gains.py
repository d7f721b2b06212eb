"""The table of a flagship's second trainings, from its log alone: `python examples/flagship/gains.py [LOG]`."""

import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

from services.domain.statistics import student_quantile

LOG = Path(__file__).with_name("log.jsonl.gz")
Losses = dict[str, dict[str, float]]  # by candidate and seed


def measured(log: Path) -> tuple[Losses, Losses, list[str]]:
    """Losses of the run's own verification on its text and on text of another source, and its finalists."""
    code, prose = defaultdict[str, dict[str, float]](dict), defaultdict[str, dict[str, float]](dict)
    finalists = set[str]()
    with gzip.open(log, "rt", encoding="utf-8") as lines:
        events = [json.loads(line)["event"] for line in lines]
    for event in events:
        if "discovery_confirmed" in event or "discovery_refuted" in event:
            finalists.add(event["candidate"])
        for seed in event.get("candidate_verified", {}).get("training", {}).get("seeds", []):
            code[event["candidate"]][seed["seed"]] = seed["loss"]
            prose[event["candidate"]][seed["seed"]] = seed["other_text_loss"]
    return code, prose, sorted(finalists & code.keys())


def gain(losses: Losses, finalist: str, control: str) -> str:
    """Mean of the differences by seed, with its 95 % interval."""
    gains = [losses[control][seed] - loss for seed, loss in losses[finalist].items()]
    mean, reach = fmean(gains), student_quantile(0.975, len(gains) - 1) * stdev(gains) / len(gains) ** 0.5
    return f"{mean:+.4f} [{mean - reach:+.4f}, {mean + reach:+.4f}]"


def main() -> None:
    """Print a row for each candidate."""
    code, prose, finalists = measured(Path(sys.argv[1]) if len(sys.argv) > 1 else LOG)
    for name in sorted(code):
        values = [gain(losses, own, name) for own in finalists if name not in finalists for losses in (code, prose)]
        print(" | ".join((name, f"{fmean(code[name].values()):.4f}", f"{fmean(prose[name].values()):.4f}", *values)))


if __name__ == "__main__":
    main()
