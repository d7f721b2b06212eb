"""Compares outputs and gradients of programs with fla's Triton kernels and with `fla_cpu`.

    python -m bench.kernels --programs delta_net gla --lengths 1 63 100 [--device cuda] [--json]

Each side runs in its own process, as both use fla's module names; ours runs first and passes on its parameters and
inputs. Without a GPU the kernels run under Triton's interpreter (TRITON_INTERPRET=1), which needs the extra `triton`
and takes about three seconds for a program of 65 tokens, in float32 only. fla's delta rule rejects float32 by an
assertion, which protects GPUs from a slow path; fla's operators are compiled without assertions there.
"""

import argparse
import gc
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services import fla_cpu
from services.domain.zoo import baselines
from services.engineer.checks.compare import relative_gap
from services.engineer.construction import MixerSizes
from services.engineer.program import load_mixer
from services.engineer.training.model import split_output

OURS, FLA = "ours", "fla"
PRECISIONS = ("fp32", "bf16")
TOLERANCE: Mapping[str, float] = {"fp32": 2e-3, "bf16": 3e-2}
"""Limits on the largest difference, relative to the largest value; kernels multiply in TF32 on a GPU."""
LENGTHS = (1, 63, 64, 100)
WIDTH, HEADS = 64, 2
ROWS: Mapping[str, int] = {"cuda": 2, "cpu": 1}  # the interpreter is slow
SECONDS: Mapping[str, float] = {"cuda": 3600.0, "cpu": 1200.0}
"""Limit for each process; on a GPU fla compiles and times thousands of variants of its kernels."""
Arrays = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Comparison:
    """The largest relative differences of one program at one length, or an error."""

    program: str
    length: int
    precision: str
    output: float | None
    gradient: float | None
    worst: str = ""
    error: str = ""

    @property
    def agrees(self) -> bool:
        """Whether both sides agree up to rounding."""
        values = (self.output, self.gradient)
        return all(value is not None and value <= TOLERANCE[self.precision] for value in values)

    @property
    def refused(self) -> bool:
        """Whether fla's kernel does not take float32 on a GPU, so that there is nothing to compare."""
        return "does not support float32" in self.error


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
        arguments = {{"q": q, "k": k, "v": v, {more}}}
        return self.{mode}(arguments, hidden_states.shape).flatten(-2)

    def packed(self, arguments, shape):
        rows, length = shape[:2]
        ends = sorted({{0, rows * length // 3, rows * length}})
        flat = {{name: value.flatten(0, 1)[None] for name, value in arguments.items()}}
        output, _ = {operator}(**flat, cu_seqlens=torch.tensor(ends, device=arguments["v"].device))
        return output[0].unflatten(0, (rows, length))

    def cached(self, arguments, shape):
        middle = max(1, shape[1] // 2)
        first, state = {operator}(**{{n: x[:, :middle] for n, x in arguments.items()}}, output_final_state=True)
        if middle == shape[1]:
            return first
        rest = {{name: value[:, middle:].contiguous() for name, value in arguments.items()}}
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
    """Programs for features that mixers do not use in training: packed sequences (cu_seqlens) and initial states."""
    return {
        f"{operator} {mode}": _PROBE.format(module=module, operator=operator, more=more, mode=mode)
        for operator, (module, more) in _OPERATORS.items()
        for mode in ("packed", "cached")
    }


def unavailable(device: str) -> str | None:
    """The reason why fla's kernels cannot run on this machine, if any."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'asi-arch[triton]'), so that fla's kernels cannot run"
    return "there is no GPU" if device == "cuda" and not torch.cuda.is_available() else None


def compare_programs(
    programs: Mapping[str, str], lengths: Sequence[int], device: str, precision: str
) -> list[Comparison]:
    """Compare programs by name and source.

    Raises RuntimeError if a process fails, and subprocess.TimeoutExpired after SECONDS.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "programs.json").write_text(json.dumps(dict(programs)), encoding="utf-8")
        for side in (OURS, FLA):
            command = [sys.executable, "-m", "bench.kernels", "--side", side, "--folder", temporary]
            command += ["--device", device, "--precision", precision, "--lengths", *map(str, lengths)]
            interpreter = {"TRITON_INTERPRET": "1"} if (side, device) == (FLA, "cpu") else {}
            process = subprocess.run(
                command,
                env={**os.environ, **interpreter},
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS[device],
            )
            if process.returncode:
                raise RuntimeError(f"{side} ended with status {process.returncode}: {process.stderr[-2000:]}")
        return [_compare(folder, name, length, precision) for name in programs for length in lengths]


def _compare(folder: Path, name: str, length: int, precision: str) -> Comparison:
    sides = []
    for side in (OURS, FLA):
        arrays = dict(np.load(folder / f"{side}-{name}-{length}.npz", allow_pickle=False))
        if "error" in arrays:
            return Comparison(name, length, precision, None, None, error=f"{side}: {arrays['error']}")
        sides.append(arrays)
    ours, theirs = sides
    compared = [key for key in ours if key.startswith(("output", "gradient/"))]
    gaps = {key: relative_gap(ours[key], theirs[key], floor=1e-3) for key in compared}
    gradients = {key: gap for key, gap in gaps.items() if key != "output"}
    worst = max(gradients, key=lambda key: gradients[key])
    return Comparison(name, length, precision, gaps["output"], gradients[worst], worst.removeprefix("gradient/"))


class _WithoutAssertions(SourceFileLoader):
    """Compiles a module as `python -O` does, which would also compile torch and transformers anew (8 s)."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - the name in SourceFileLoader
        """Of the source: there is no cache."""
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True, optimize=1)

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        """The place of fla's operators, for `sys.meta_path`."""
        spec = PathFinder.find_spec(name, path, target) if name.startswith("fla.ops.") else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = cls(name, spec.loader.path)
        return spec


def _run_side(side: str, folder: Path, lengths: Sequence[int], device: str, precision: str) -> None:
    """The body of one process: run each program at each length and write the results to files."""
    if side == OURS:
        fla_cpu.install()
    elif device == "cpu":
        sys.meta_path.insert(0, _WithoutAssertions)
    torch.set_num_threads(1)
    programs: Mapping[str, str] = json.loads((folder / "programs.json").read_text(encoding="utf-8"))
    for name, program in programs.items():
        for length in lengths:
            arrays: Mapping[str, NDArray[np.float64] | str]
            try:
                arrays = _run_program(side, folder, name, program, length, device, precision)
            except Exception as error:  # noqa: BLE001 - kernels raise many types for unsupported inputs
                arrays = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
            content: Any = {key: np.asarray(value) for key, value in arrays.items()}
            np.savez(folder / f"{side}-{name}-{length}.npz", **content)


class _Index(int):
    """A loop counter with the method `to`, which kernels use for casts and Triton's interpreter lacks."""

    def to(self, _: object) -> "_Index":
        """The counter itself."""
        return self


def _interpret() -> None:
    """Add what Triton's interpreter lacks for fla's kernels: a driver, casts of counters, and renamed builtins."""
    from triton import language
    from triton.runtime import driver, interpreter

    def gather(*args: Any, **options: Any) -> Any:
        return language.gather(*args, **options)

    @cache
    def builtins(place: object) -> list[str]:
        return [name for name, member in inspect.getmembers(place) if language.core.is_builtin(member)]

    def builtin_members(place: object) -> list[tuple[str, object]]:
        return [(name, getattr(place, name)) for name in builtins(place)]

    # For each call of a kernel's helper it searches whole modules for the builtins that it replaces.
    interpreter.inspect = SimpleNamespace(**vars(inspect) | {"getmembers": builtin_members})
    driver.set_active(
        SimpleNamespace(
            get_benchmarker=lambda: lambda *_, **__: (1.0, 1.0, 1.0),  # the autotuner takes the first configuration
            get_active_torch_device=lambda: torch.device("cpu"),
            get_device_interface=lambda: torch.cpu,
            get_current_device=lambda: 0,
            clear_cache=lambda _: None,
        )
    )
    for name, module in list(sys.modules.items()):
        if name.startswith("fla."):
            vars(module)["range"] = lambda *bounds: [_Index(index) for index in range(*map(int, bounds))]
            if "gather" in vars(module):
                vars(module)["gather"] = gather


def _run_program(side: str, folder: Path, name: str, program: str, length: int, device: str, precision: str) -> Arrays:
    torch.manual_seed(0)
    mixer = load_mixer(program, MixerSizes(WIDTH, HEADS))
    if side == FLA and device == "cpu":
        _interpret()  # after the program's imports
        gc.freeze()  # these are many objects, of which nothing becomes garbage
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
    assert tensor is not None
    return tensor.detach().double().cpu().numpy()


def lines(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """One line for each comparison."""
    for comparison in comparisons:
        mark = "ok  " if comparison.agrees else "none" if comparison.refused else "FAIL"
        text = comparison.error
        if not text:
            text = f"output {comparison.output:.1e}, gradient {comparison.gradient:.1e} ({comparison.worst})"
        yield f"{mark} {comparison.program:<24} length {comparison.length:>5} {comparison.precision}: {text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or run one side. Exit status 0: all agree; 1: some differ; 2: the kernels cannot run here."""
    zoo = {baseline.name: baseline.program for baseline in baselines()}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--programs", nargs="*", default=list(zoo), metavar="NAME")
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16" if torch.cuda.is_available() else "fp32")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=(OURS, FLA), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        _run_side(options.side, options.folder, options.lengths, options.device, options.precision)
        return 0
    if reason := unavailable(options.device):
        sys.stderr.write(f"{reason}\n")
        return 2
    programs = {name: zoo[name] for name in options.programs}
    comparisons = compare_programs(programs, options.lengths, options.device, options.precision)
    rows = [asdict(comparison) for comparison in comparisons]
    text = json.dumps(rows, indent=2) if options.json else "\n".join(lines(comparisons))
    sys.stdout.write(f"{text}\n")
    return 0 if all(comparison.agrees or comparison.refused for comparison in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
