"""A result once more: its check and its training, compared with what the archive holds."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev

from services.chassis.errors import NotPossible
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2

SEED_SPREAD = 0.0135
"""Nats: standard deviation between seeds at scale tiny as measured once; used where a candidate has one seed only."""
SPREADS = 3.0


@dataclass(frozen=True)
class Rerun:
    """One seed trained again. `holds` when the loss lies within three spreads of the recorded one."""

    seed: int
    recorded_loss: float
    loss: float | None
    spread: float
    check_passed: bool
    holds: bool
    sentence: str


def rerun_of(record: candidate_pb2.Candidate, status: pb.RunStatus) -> Rerun:
    """Check the program and train its first seed again, in a sandbox of this machine.

    Raises NotPossible for a candidate that was never trained here.
    """
    if not record.training.seeds or not record.training.HasField("loss"):
        raise NotPossible(
            f"candidate {record.id} was not trained here: there is nothing to train again; see --no-rerun"
        )
    seed = record.training.seeds[0]
    overrides = [
        part for name, value in status.settings.scale_overrides.items() for part in ("--set", f"{name}={value}")
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        file.write_text(record.training.program or record.proposal.program, encoding="utf-8")
        common = [str(file), "--json", "--scale", record.stage, *overrides]
        exempt = ["--exempt-from-cost"] if record.request.baseline == "softmax_attention" else []
        checked = _tool("check", *common, *exempt)
        trained = _tool("train", *common, "--seed", str(seed.seed))
    losses = [one.loss for one in record.training.seeds]
    spread = stdev(losses) if len(losses) > 1 else SEED_SPREAD
    passed = checked.get("passed") is True
    loss = trained.get("loss")
    if not isinstance(loss, float):
        sentence = f"the numbers do NOT hold: training it again failed ({trained.get('reason')})"
        return Rerun(seed.seed, seed.loss, None, spread, passed, False, sentence)
    near = abs(loss - seed.loss) <= SPREADS * spread
    verdict = "hold" if near and passed else "do NOT hold"
    sentence = (
        f"the numbers {verdict}: seed {seed.seed} gives {loss:.4f} against {seed.loss:.4f} on record, "
        f"seeds' spread {spread:.4f}; the check {'passes' if passed else 'FAILS'}"
    )
    return Rerun(seed.seed, seed.loss, loss, spread, passed, near and passed, sentence)


def _tool(*arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "services.engineer.tools", *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    try:
        found: dict[str, object] = json.loads(done.stdout)
    except ValueError:
        raise NotPossible(f"the engineer's tool ended with status {done.returncode} and no result") from None
    return found
