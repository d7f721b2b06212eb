"""A probe of programs: its verdict is computed here, from arrays that come out of the sandbox."""

import numpy as np

from asi_arch.probes import AddedProbe, Finding, Probe, Remote, State

MOST = 1e5


async def _bounded(program: Remote) -> Finding:
    """Compares the size of the output for inputs of size 1 and 100."""
    inputs = program.noise(2, 64, stream=41)
    small, large = [float(np.abs(await program.output(inputs * size, State())).mean()) for size in (1.0, 100.0)]
    grown = large / max(small, 1e-9)
    return Finding(grown > MOST, f"the output grows {grown:.3g} × when the input grows 100 ×", {"ratio": grown})


SCALING = AddedProbe(Probe("scaling", fatal=False, after=("runs", "repeatability")), _bounded)
