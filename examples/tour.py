"""A tour of a run in pandas: what was tried, what it brought, where the time went, and one plot.

    asi-arch export RUN --out run.jsonl
    python examples/tour.py run.jsonl --plot curves.png

Needs pandas and matplotlib, and nothing of this project: an exported log is one JSON object per line, and each event
carries what it adds to its candidate.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import pandas as pd

mpl.use("Agg")
import matplotlib.pyplot as plt

SHOWN = 8
STATES = {
    "candidate_requested": "requested",
    "candidate_proposed": "proposed",
    "candidate_trained": "trained",
    "candidate_judged": "judged",
    "candidate_analysed": "archived",
    "candidate_rejected": "rejected",
}
"""Where a candidate stands after each fact that adds a part to it."""


def events_of(path: Path) -> pd.DataFrame:
    """One row per event: sequence, time, fact, candidate, service, and the whole event as it was published."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [
        {
            "sequence": line["sequence"],
            "time": line["event"]["time"],
            "fact": _fact(line["subject"]),
            "candidate": line["event"].get("candidate"),
            "service": line["event"].get("service"),
            "event": line["event"],
        }
        for line in lines
    ]
    frame = pd.DataFrame(rows)
    frame["time"] = pd.to_datetime(frame["time"], format="ISO8601", utc=True)
    return frame


def candidates_of(events: pd.DataFrame) -> pd.DataFrame:
    """One row per candidate, from what its facts added; what was not measured is NaN. Loss in nats per token."""
    records: dict[str, dict] = {}
    for event in events.dropna(subset=["candidate"])["event"]:
        record = records.setdefault(event["candidate"], {"id": event["candidate"]})
        for fact, state in STATES.items():
            if fact in event:
                record.update(event[fact], state=state)
        if "candidate_rescored" in event:
            record.setdefault("verdict", {})["fitness"] = event["candidate_rescored"]["fitness"]
    return pd.DataFrame([_row(record) for record in records.values() if "request" in record]).set_index("id")


def curves_of(events: pd.DataFrame) -> pd.DataFrame:
    """One row per point of a learning curve: candidate, seed, tokens, training loss."""
    trained = events[events["fact"] == "candidate.trained"]["event"]
    return pd.DataFrame(
        [
            {"candidate": event["candidate"], "seed": int(seed["seed"]), "tokens": int(point["tokens"]),
             "loss": point["train_loss"]}
            for event in trained
            for seed in event["candidate_trained"]["training"]["seeds"]
            for point in seed.get("curve", [])
            if "train_loss" in point
        ],
        columns=["candidate", "seed", "tokens", "loss"],
    )  # fmt: skip


def ranking(candidates: pd.DataFrame) -> pd.DataFrame:
    """Best fitness first, with the difference to the root, which is the first baseline."""
    root = candidates.loc[candidates["number"].idxmin(), "loss"]
    shown = candidates.assign(difference=candidates["loss"] - root).sort_values("fitness", ascending=False)
    return shown[["name", "kind", "parent", "loss", "difference", "benchmark", "fitness"]].head(SHOWN)


def components(candidates: pd.DataFrame) -> pd.DataFrame:
    """For each component: how many candidates have it, and their mean loss and fitness."""
    scored = candidates.dropna(subset=["loss"]).explode("components").dropna(subset=["components"])
    grouped = scored.groupby("components").agg(
        candidates=("loss", "size"), loss=("loss", "mean"), fitness=("fitness", "mean")
    )
    return grouped.sort_values(["candidates", "fitness"], ascending=False).head(SHOWN)


def waits(events: pd.DataFrame) -> pd.DataFrame:
    """Seconds from one fact of a candidate's way to the next: where the time goes."""
    way = events[events["fact"].str.startswith("candidate.")].sort_values("sequence").copy()
    way["seconds"] = way.groupby("candidate")["time"].diff().dt.total_seconds()
    return way.groupby("fact")["seconds"].agg(["count", "median", "max"]).dropna().sort_values("median")


def plot(candidates: pd.DataFrame, curves: pd.DataFrame, path: Path) -> None:
    """Learning curves of the baselines in grey and of the best proposals in colour."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    best = candidates[candidates["kind"] == "proposal"].sort_values("fitness", ascending=False).index[:3]
    for (candidate, seed), curve in curves.groupby(["candidate", "seed"]):
        if candidate in best:
            axes.plot(curve["tokens"], curve["loss"], label=f"{candidates.loc[candidate, 'name']}, seed {seed}")
        elif candidates.loc[candidate, "kind"] == "baseline":
            axes.plot(curve["tokens"], curve["loss"], color="0.7", linewidth=1)
    axes.set(xlabel="tokens", ylabel="training loss, nats per token", title="Baselines (grey) and the best proposals")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Print the tables and write the plot."""
    parser = argparse.ArgumentParser(description="A tour of an exported run.")
    parser.add_argument("log", type=Path, help="what `asi-arch export RUN --out FILE` wrote")
    parser.add_argument("--plot", type=Path, default=Path("tour.png"), help="where the plot goes")
    options = parser.parse_args()
    try:
        events = events_of(options.log)
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"{options.log} is no exported log: {error}")
    candidates, curves = candidates_of(events), curves_of(events)
    with pd.option_context("display.width", 100, "display.max_columns", 10, "display.max_colwidth", 28,
                           "display.float_format", "{:.3f}".format):  # fmt: skip
        print(f"{len(events)} events, {len(candidates)} candidates\n")
        for title, table in (("Best candidates", ranking(candidates)), ("Components", components(candidates)),
                             ("Seconds until each fact", waits(events))):  # fmt: skip
            print(f"{title}\n{table}\n")
    plot(candidates, curves, options.plot)
    print(f"learning curves: {options.plot}")


def _fact(subject: str) -> str:
    """As in "candidate.trained", from asi.v1.RUN.candidate.trained with or without a stage behind it."""
    return ".".join(subject.split(".")[3:5])


def _row(record: dict[str, dict]) -> dict[str, object]:
    proposal, training, verdict = (record.get(part, {}) for part in ("proposal", "training", "verdict"))
    fitness = verdict.get("fitness")
    return {
        "id": record["id"],
        "number": record["request"]["number"],
        "name": proposal.get("name"),
        "kind": str(record["kind"]).removeprefix("KIND_").lower(),
        "state": record["state"],
        "parent": proposal.get("parent"),
        "components": proposal.get("components", []),
        "loss": training.get("loss"),
        "benchmark": training.get("benchmark"),
        "judge": verdict.get("raw"),
        "fitness": None if fitness is None else fitness.get("value", 0.0),  # JSON of protobuf leaves out zeros
    }


if __name__ == "__main__":
    main()
