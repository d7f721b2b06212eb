"""Executes a candidate's program and constructs its mixer. Runs in the child."""

import hashlib
import linecache
import sys
from types import ModuleType

import einops._torch_specific
import einops.layers.torch  # noqa: F401 - confined jobs cannot open files, so programs' imports are loaded beforehand
import torch
import torch.nn.attention.flex_attention
from torch import nn

from services import fla_cpu
from services.engineer.checks.screen import ABSENT
from services.engineer.construction import MixerSizes, construct, mixer_of_layer
from services.fla_cpu.names import no_op_decorator

str(torch.zeros(1))  # torch imports parts of itself when a program prints its first tensor


def prepare_child(threads: int = 1, device: str = "cpu") -> None:
    """Prepare a child for programs that run on `device`.

    On a CPU, fla is replaced by our implementation, as its Triton kernels need a GPU, and torch.compile is disabled, as
    importing the compiler takes longer than a check. Functions that programs script run in plain Python everywhere,
    and libraries that a program may try to import are absent everywhere.
    """
    torch.set_num_threads(threads)
    sys.modules.update(dict.fromkeys(ABSENT))  # type: ignore[arg-type]  # None makes an import raise ModuleNotFoundError
    for name in ("export", "ignore", "script", "unused"):
        setattr(torch.jit, name, no_op_decorator)
    if device == "cpu":
        fla_cpu.install()
        torch.compile = no_op_decorator  # type: ignore[assignment]


def load_mixer(source: str, sizes: MixerSizes) -> nn.Module:
    """Execute the program and construct its mixer. Raises ProgramError, and whatever the program itself raises."""
    module = execute(source)
    return construct(mixer_of_layer(module, source, sizes), sizes)


FILE_PREFIX = "<candidate_"
"""The start of the name of a program's file in tracebacks."""


def execute(source: str) -> ModuleType:
    """The program as a module, executed once in a process.

    Its name is a hash of the source, which is stored in `linecache` for tracebacks and compilers.
    """
    source = source.removeprefix("\ufeff")
    name = f"candidate_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    file = f"<{name}>"
    module.__file__ = file
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    sys.modules[name] = module
    try:
        exec(compile(source, file, "exec"), module.__dict__)  # noqa: S102 - in a sandboxed child
    except BaseException:
        del sys.modules[name]
        raise
    return module
