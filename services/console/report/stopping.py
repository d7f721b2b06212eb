"""What stopping early would have saved in this run, and lost."""

from matplotlib.figure import Figure

from services.console.commands.stopping import Replayed, replay_row, replays, too_few
from services.console.report.dataset import Dataset
from services.console.report.drawing import ACCENT, GOOD, Drawing, new_axes


def stopping(data: Dataset) -> Drawing:
    """Compute saved and finalists lost against the place at which trainings are stopped."""
    name, title = "stopping", "Stopping by curve extrapolation · Replayed over this run"
    found = replays(data.records)
    if not found:
        return Drawing(name, title, "", None, missing=too_few(data.records))
    rows = [replay_row(one) for one in found]
    count, best = found[0].trainings, len(found[0].replay.finalists)
    caption = (
        f"{count} whole trainings in their order, each judged by the earlier ones alone, from the loss there and its "
        f"fall since half that way; finalists are the {best} with the lowest held-out loss. Nobody was stopped here."
    )
    return Drawing(name, title, caption, _figure(found), tuple(rows[0]), tuple(tuple(row.values()) for row in rows))


def _figure(found: list[Replayed]) -> Figure:
    figure, axes = new_axes("trainings are stopped at (% of their steps)", "%")
    places = [100 * one.fraction for one in found]
    lost = [100 * len(one.replay.lost) / len(one.replay.finalists) for one in found]
    axes.plot(places, [100 * one.replay.saved for one in found], color=ACCENT, lw=2, marker="o", label="compute saved")
    axes.plot(places, lost, color=GOOD, lw=2, marker="s", ls="--", label="finalists lost")
    axes.set_ylim(-3, max(60.0, *lost) + 3)
    axes.set_xticks(places)
    axes.legend(frameon=False)
    return figure
