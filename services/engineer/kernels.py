"""Programs with fla's Triton kernels beside our PyTorch versions: outputs and gradients, program by program.

    python -m services.engineer.kernels --programs delta_net gla --lengths 1 63 100 [--device cuda] [--json]

Both run in processes of their own, since either stands under fla's names: ours first, which hands its parameters and
inputs on. Without a GPU the kernels run under Triton's interpreter (TRITON_INTERPRET=1), which needs the extra `triton`
and takes about three seconds for a program of 65 tokens. The interpreter computes in float32 only. fla's delta rule
refuses float32 with an assertion, which protects GPUs from a slow path; Python's -O leaves it out there.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services import fla_cpu
from services.domain.zoo import baselines
from services.engineer.program import MixerSizes, load_mixer
from services.engineer.training.model import split_output

OURS, FLA = "ours", "fla"
PRECISIONS = ("fp32", "bf16")
TOLERANCE: Mapping[str, float] = {"fp32": 2e-3, "bf16": 3e-2}
"""Of the largest difference, relative to the largest value: kernels multiply in TF32 on a GPU."""
LENGTHS = (1, 63, 64, 100)
WIDTH, HEADS = 64, 2
ROWS: Mapping[str, int] = {"cuda": 2, "cpu": 1}
"""The interpreter takes as many times longer."""
SECONDS = 1200.0
"""What one of the two processes may take."""
MISSING = "triton is not installed (pip install 'asi-arch[triton]'), so that fla's kernels cannot run"
Arrays = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Comparison:
    """One program at one length: the largest relative differences, or why there are none."""

    program: str
    length: int
    precision: str
    output: float | None
    gradient: float | None
    worst: str = ""
    error: str = ""

    @property
    def agrees(self) -> bool:
        """Whether both computed the same to rounding."""
        values = (self.output, self.gradient)
        return all(value is not None and value <= TOLERANCE[self.precision] for value in values)


_PROBE = """
import torch
from torch import nn
from {module} import {operator}


class Probe(nn.Module):
    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.heads = num_heads
        self.into = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.small = nn.Linear(hidden_size, 2 * num_heads)

    def forward(self, hidden_states):
        parts = self.into(hidden_states).chunk(3, -1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in parts)
        k = nn.functional.normalize(k.float(), dim=-1).to(v.dtype)
        strength, decay = self.small(hidden_states).chunk(2, -1)
        given = {{"q": q, "k": k, "v": v, {more}}}
        return self.{way}(given, hidden_states.shape).flatten(-2)

    def packed(self, given, shape):
        rows, length = shape[:2]
        ends = sorted({{0, rows * length // 3, rows * length}})
        flat = {{name: value.flatten(0, 1)[None] for name, value in given.items()}}
        output, _ = {operator}(**flat, cu_seqlens=torch.tensor(ends, device=given["v"].device))
        return output[0].unflatten(0, (rows, length))

    def cached(self, given, shape):
        middle = max(1, shape[1] // 2)
        first, state = {operator}(**{{n: x[:, :middle] for n, x in given.items()}}, output_final_state=True)
        if middle == shape[1]:
            return first
        rest = {{name: value[:, middle:].contiguous() for name, value in given.items()}}
        second, _ = {operator}(**rest, initial_state=state)
        return torch.cat([first, second], dim=1)
"""
_OPERATORS = {
    "chunk_delta_rule": ("fla.ops.delta_rule", '"beta": strength.sigmoid()'),
    "chunk_gated_delta_rule": (
        "fla.ops.gated_delta_rule", '"beta": strength.sigmoid(), "g": nn.functional.logsigmoid(decay.float())',
    ),
    "chunk_simple_gla": ("fla.ops.simple_gla", '"g": nn.functional.logsigmoid(decay.float())'),
}  # fmt: skip


def probes() -> dict[str, str]:
    """Programs for what mixers in training do not use: packed sequences (cu_seqlens), and states that are handed on."""
    return {
        f"{operator} {way}": _PROBE.format(module=module, operator=operator, more=more, way=way)
        for operator, (module, more) in _OPERATORS.items()
        for way in ("packed", "cached")
    }


def available(device: str) -> str | None:
    """Why fla's kernels cannot run on this machine; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return MISSING
    if device == "cuda" and not torch.cuda.is_available():
        return "there is no GPU"
    return None


def compare_programs(
    programs: Mapping[str, str], lengths: Sequence[int], device: str, precision: str
) -> list[Comparison]:
    """Compare programs given by name and text.

    Raises RuntimeError with the end of what a process wrote if it died, and subprocess.TimeoutExpired after SECONDS.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "programs.json").write_text(json.dumps(dict(programs)), encoding="utf-8")
        for side in (OURS, FLA):
            command = [sys.executable, "-m", "services.engineer.kernels", "--side", side, "--folder", folder]
            command += ["--device", device, "--precision", precision, "--lengths", *map(str, lengths)]
            interpreted = {"TRITON_INTERPRET": "1", "PYTHONOPTIMIZE": "1"} if (side, device) == (FLA, "cpu") else {}
            environment = {**os.environ, **interpreted}
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
            )
            if done.returncode:
                raise RuntimeError(f"{side} ended with status {done.returncode}: {done.stderr[-2000:]}")
        return [_compared(place, name, length, precision) for name in programs for length in lengths]


def _compared(folder: Path, name: str, length: int, precision: str) -> Comparison:
    sides = []
    for side in (OURS, FLA):
        arrays = dict(np.load(folder / f"{side}-{name}-{length}.npz", allow_pickle=False))
        if "error" in arrays:
            return Comparison(name, length, precision, None, None, error=f"{side}: {arrays['error']}")
        sides.append(arrays)
    ours, theirs = sides
    gaps = {key: _gap(ours[key], theirs[key]) for key in ours if key.startswith(("output", "gradient/"))}
    gradients = {key: gap for key, gap in gaps.items() if key != "output"}
    worst = max(gradients, key=lambda key: gradients[key])
    return Comparison(name, length, precision, gaps["output"], gradients[worst], worst.removeprefix("gradient/"))


def _gap(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """The largest difference relative to the largest value; gradients near zero are compared with 1e-3."""
    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(float(np.abs(ours).max()), 1e-3)) if ours.size else 0.0


def _run_side(side: str, folder: Path, lengths: Sequence[int], device: str, precision: str) -> None:
    """One of the two processes: each program at each length, results to files."""
    if side == OURS:
        fla_cpu.install()
    torch.set_num_threads(1)
    programs: Mapping[str, str] = json.loads((folder / "programs.json").read_text(encoding="utf-8"))
    for name, program in programs.items():
        for length in lengths:
            arrays: Mapping[str, NDArray[np.float64] | str]
            try:
                arrays = _measured(side, folder, name, program, length, device, precision)
            except Exception as error:  # noqa: BLE001 - kernels refuse shapes and types with anything; it is the result
                arrays = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
            content: Any = {key: np.asarray(value) for key, value in arrays.items()}
            np.savez(folder / f"{side}-{name}-{length}.npz", **content)


class _Interpreter:
    """What Triton's autotuner asks a driver, where there is no GPU: the first configuration is as good as any."""

    def get_benchmarker(self) -> Callable[..., tuple[float, ...]]:
        """A measurement that runs nothing."""
        return lambda *_, **__: (1.0, 1.0, 1.0)

    def get_active_torch_device(self) -> torch.device:
        """Where tensors lie."""
        return torch.device("cpu")

    def get_device_interface(self) -> object:
        """Synchronisation, which the CPU does not need."""
        return torch.cpu

    def get_current_device(self) -> int:
        """The only one."""
        return 0

    def clear_cache(self, _: object) -> None:
        """There is none."""


class _Index(int):
    """A loop's counter: compiled kernels cast it, and the interpreter gives them a plain number."""

    def to(self, _: object) -> "_Index":
        """Numbers of Python have no width."""
        return self


def _indices(*bounds: int) -> list[_Index]:
    """What `range` is for kernels under the interpreter."""
    return [_Index(index) for index in range(*map(int, bounds))]


def _interpret() -> None:
    """Make fla's kernels run under Triton's interpreter, which lacks a driver, casts of counters, and builtins that fla
    has given a name of its own."""
    from triton import language
    from triton.runtime import driver

    def gather(*args: Any, **options: Any) -> Any:
        return language.gather(*args, **options)

    driver.set_active(_Interpreter())
    for name, module in list(sys.modules.items()):
        if name.startswith("fla."):
            vars(module)["range"] = _indices
            if "gather" in vars(module):
                vars(module)["gather"] = gather


def _measured(side: str, folder: Path, name: str, program: str, length: int, device: str, precision: str) -> Arrays:
    torch.manual_seed(0)
    mixer = load_mixer(program, MixerSizes(WIDTH, HEADS))
    if side == FLA and device == "cpu":
        _interpret()  # once the program has imported what it needs
    if side == FLA:
        ours = np.load(folder / f"{OURS}-{name}-{length}.npz", allow_pickle=False)
        with torch.no_grad():
            for key, parameter in mixer.named_parameters():
                parameter.copy_(torch.from_numpy(ours[f"parameter/{key}"]))
    mixer = mixer.to(device)
    noise = np.random.default_rng([1, length]).standard_normal((2, ROWS[device], length, WIDTH))
    inputs, direction = (torch.from_numpy(part).to(device, torch.float32) for part in noise)
    inputs.requires_grad_()
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        output, _ = split_output(mixer(inputs))
    torch.autograd.backward((output.float() * direction).sum())
    arrays = {"output": _array(output), "gradient/inputs": _array(inputs.grad)}
    for key, parameter in mixer.named_parameters():
        arrays[f"parameter/{key}"] = _array(parameter)
        arrays[f"gradient/{key}"] = _array(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    return arrays


def _array(tensor: Tensor | None) -> NDArray[np.float64]:
    assert tensor is not None  # noqa: S101 - every leaf has a gradient after the backward pass
    return tensor.detach().double().cpu().numpy()


def lines(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """One line for each comparison."""
    for comparison in comparisons:
        mark = "ok  " if comparison.agrees else "FAIL"
        told = (
            comparison.error
            or f"output {comparison.output:.1e}, gradient {comparison.gradient:.1e} ({comparison.worst})"
        )
        yield f"{mark} {comparison.program:<24} length {comparison.length:>5} {comparison.precision}: {told}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or be one of the two processes. Exit status 0: all agree; 1: some differ; 2: cannot run here."""
    zoo = {baseline.name: baseline.program for baseline in baselines()}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--programs", nargs="*", default=list(zoo), metavar="NAME")
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16" if torch.cuda.is_available() else "fp32")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=(OURS, FLA), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.side:
        _run_side(given.side, given.folder, given.lengths, given.device, given.precision)
        return 0
    if reason := available(given.device):
        sys.stderr.write(f"{reason}\n")
        return 2
    programs = {name: zoo[name] for name in given.programs}
    found = compare_programs(programs, given.lengths, given.device, given.precision)
    text = json.dumps([asdict(one) for one in found], indent=2) if given.json else "\n".join(lines(found))
    sys.stdout.write(f"{text}\n")
    return 0 if all(one.agrees for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
