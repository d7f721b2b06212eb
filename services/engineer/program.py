"""Executes a candidate's program, constructs its mixer and explains its errors. Runs in the child."""

import ast
import hashlib
import linecache
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import CodeType, FrameType, ModuleType
from typing import cast

import einops._torch_specific
import einops.layers.torch  # noqa: F401 - confined jobs cannot open files, so programs' imports are loaded beforehand
import numpy as np
import torch
import torch.nn.attention.flex_attention
from torch import Tensor, nn

from services import fla_cpu
from services.domain.syntax import lines_of
from services.engineer.checks.screen import ABSENT
from services.engineer.checks.subject import DOUBLE, SINGLE
from services.engineer.construction import MixerSizes, ProgramError, construct, mixer_of_layer
from services.fla_cpu.names import no_op_decorator
from services.sandbox import Array, Channel, Message

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


_MODULES: dict[tuple[str, str], ModuleType] = {}


def execute(source: str, copy: str = "", anew: bool = False) -> ModuleType:
    """The program as a module, executed once in a process, or once for each `copy`, unless `anew`.

    Its name is a hash of the source, which is stored in `linecache` for tracebacks and compilers.
    """
    source = source.removeprefix("\ufeff")
    name = f"candidate_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if not anew and (executed := _MODULES.get((name, copy))):
        sys.modules[name] = executed
        return executed
    module = ModuleType(name)
    file = f"<{name}>"
    module.__file__ = file
    linecache.cache[file] = (len(source), None, lines_of(source), file)
    sys.modules[name] = module
    try:
        tree = ast.fix_missing_locations(_WithoutTriton().visit(ast.parse(source))) if "triton" in source else source
        exec(compile(tree, file, "exec"), module.__dict__)  # noqa: S102 - in a sandboxed child
    except BaseException:
        del sys.modules[name]
        raise
    _MODULES[name, copy] = module
    return module


class _WithoutTriton(ast.NodeTransformer):
    """Replaces imports of Triton, which the screen allows if its absence is caught: torch and fla may need it."""

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> ast.stmt:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        if not any(name.partition(".")[0] == "triton" for name in names):
            return node
        return ast.copy_location(ast.Raise(ast.Name("ModuleNotFoundError", ast.Load())), node)

    visit_ImportFrom = visit_Import  # noqa: N815


_EXPLANATIONS = (
    (r"leaf Variable that requires grad is being used in an in-place|view of a leaf Variable",
     "the program changes a parameter or its input in place: compute a new tensor instead"),
    (r"modified by an inplace operation|a view .* is being modified inplace",
     "the program changes a tensor in place that the backward pass still needs: write x = x + y, not x += y, and "
     "append what a loop would write to x[:, t] to a list, of which torch.stack makes x"),
    (r"metaclass conflict",
     "a class of the program has a metaclass that conflicts with nn.Module's: remove it"),
    (r"omplex(Float|Double|64|128)|for only complex|autograd only supports .*real",
     "the program computes with complex numbers where real ones are needed: take the real part or the absolute value"),
    (r"/dev/u?random",
     "the program seeds a generator from /dev/urandom: use torch's default generator, which is seeded"),
    (r"not compiled with CUDA|No CUDA GPUs",
     "the program uses a GPU where there is none: take the device from the input, as in device=x.device"),
    (r"does not require grad and does not have a grad_fn",
     "the program computes a gradient in its forward, which also runs where gradients are disabled: "
     "compute it inside `with torch.enable_grad():`"),
    (r"'indices' to have one of the following scalar types",
     "the class looks up an embedding of its input, so it is a whole model: the mixer gets hidden states of shape "
     "[batch, length, width]; name the mixer's class DeltaNet, or let only its forward take hidden_states"),
    (r"before Module.__init__\(\) call",
     "the constructor does not call its parent's first: begin it with super().__init__()"),
    (r"instantiate abstract class",
     "the class inherits abstract methods: define each of them in it, or remove @abstractmethod"),
    (r"RecursionError",
     "the program calls itself without end: a __getattr__ must return super().__getattr__(name) where that exists, and "
     "no module may be an attribute of one of its own parts"),
    (r"differentiated Tensor.* not have been used",
     "the program differentiates with respect to a tensor that the loss does not use, such as a view made where "
     "gradients are disabled, as in evaluation: make it with x.detach().clone().requires_grad_()"),
    (r"FlexAttention does not support backward on CPU",
     "flex_attention has no backward pass on a CPU: cut the sequence into blocks of the window's size, and use "
     "torch.nn.functional.scaled_dot_product_attention within each block and the one before"),
    (r"backward through the graph a second time",
     "the program uses a tensor of an earlier forward with its gradients: keep what a layer needs of its own earlier "
     "calls as x.detach(); what it needs of another layer, which would lose gradients by that, compute again from its "
     "own hidden states, since layers are also checked one by one"),
    (r"forward\(\) missing \d+ required positional",
     "forward is called with the hidden states alone: give its other parameters defaults"),
    (r"too many values to unpack \(expected 2\)|not enough values to unpack \(expected 4",
     "the program unpacks another number of values than it names: hidden states are [batch, length, width]; a class "
     "that takes tokens [batch, length] is a whole model, so name the mixer's class DeltaNet"),
    (r"uninitialized parameter|UninitializedParameter",
     "the program has lazy modules, whose sizes are unknown before the first forward: "
     "use nn.Linear(hidden_size, ...) instead of nn.LazyLinear(...)"),
    (r"Expected more than 1 value per channel",
     "the program normalises over the batch, so that rows depend on each other: normalise each token, as RMSNorm does"),
    (r"Expected more than 1 spatial element",
     "the program normalises over the length, so that outputs depend on later inputs: normalise each token"),
    (r"can't allocate memory|out of memory",
     "a tensor is too large for the memory that a program may use: sum products by torch.einsum or @ instead of "
     "broadcasting them, in shorter chunks"),
    (r"pip install",
     "the program needs a library that is absent here, and none can be installed: compute the same in plain torch, "
     "such as torch.nn.functional.scaled_dot_product_attention for flash_attn"),
    (r"input\.dim\(\) = 3 is not equal to len\(dims\) = [45]",
     "the program permutes more dimensions than a tensor has: hidden states are [batch, length, width]"),
    (r"Sparse(CPU|CUDA)|(for|is|a) sparse tensor",
     "the program makes sparse tensors, or sparse gradients as nn.Embedding does with sparse=True: make dense ones"),
    (r"PermissionError.*torch/_(dynamo|inductor)",
     "the program uses a part of torch that loads its compiler, such as torch.use_deterministic_algorithms: remove it"),
    (r"PermissionError: \[Errno 1\] [^:]*$",
     "the program starts a process, sends a signal or does something else that a confined one cannot: remove it"),
    (r"PermissionError",
     "the program opens a file, or imports a module that is not loaded: use only torch, einops, fla and plain Python"),
)  # fmt: skip


def explain(error: BaseException, repeat: Callable[[], object] | None = None) -> str:
    """The error message of an exception in a program, preceded by an explanation of common errors.

    `repeat` runs the program again, to find the line whose backward pass raised the exception.
    """
    if isinstance(error, ProgramError):
        return str(error)
    message = f"{type(error).__name__}: {str(error)[:2000]}".rstrip(": ")
    message += "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    own = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_own(frame)]
    line = _line(*own[-1]) if own else repeat and line_of_backward(repeat)
    where = f", raised in {line}" if line else ""
    for pattern, explanation in _EXPLANATIONS:
        if re.search(pattern, message):
            return f"{explanation} ({message}{where})"
    return message + where


def current_line() -> str | None:
    """The innermost line of the program that is being executed, and the function that has it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_own(frame):
        frame = frame.f_back
    return frame and _line(frame.f_code, frame.f_lineno)


def _line(code: CodeType, number: int) -> str:
    function = "" if code.co_name == "<module>" else f" ({code.co_qualname})"
    return f"line {number}{function}: {linecache.getline(code.co_filename, number).strip()}"[:200]


def line_of_backward(repeat: Callable[[], object], to_nan: bool = False) -> str | None:
    """The program's line that computed what torch was differentiating when `repeat` failed, as torch warns of it.

    With `to_nan`, also where the gradient of that line is not a number.
    """
    with warnings.catch_warnings(record=True) as caught, suppress(Exception):
        warnings.simplefilter("always")
        with torch.autograd.detect_anomaly(check_nan=to_nan):
            repeat()
    traces = "".join(str(warning.message) for warning in caught)
    lines = re.findall(rf'File "({FILE_PREFIX}\w+>)", line (\d+), in (\S+)', traces)
    if not lines:
        return None
    file, number, function = lines[-1]
    return f"line {number} ({function}): {linecache.getline(file, int(number)).strip()}"[:200]


def _is_own(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(FILE_PREFIX)


def traceback_tail(error: BaseException) -> str:
    """The last 2,000 characters of an exception's traceback: of the program's own frames, if it has any.

    Empty for a ProgramError, whose message says all.
    """
    if isinstance(error, ProgramError):
        return ""
    trace = traceback.TracebackException.from_exception(error)
    own = [frame for frame in trace.stack if frame.filename.startswith(FILE_PREFIX)]
    trace.stack = traceback.StackSummary.from_list(own or trace.stack)
    return "".join(trace.format())[-2000:]


def run_functions(channel: Channel) -> None:
    """A job: call functions of programs with arrays from the host, and return outputs and gradients."""
    begin = channel.receive()
    device, roles = str(begin.header["device"]), cast("dict[str, str]", begin.header["roles"])
    prepare_child(begin.integer("threads"), device)
    channel.send("ready", {}, {})
    while (request := channel.receive()).kind != "end":
        try:
            channel.send("called", {}, _call(request, device, roles))
        except Exception as error:  # noqa: BLE001 - candidate code may raise anything
            channel.send("called", {"raised": f"{type(error).__name__}: {str(error)[:300]}"}, {})


def _call(request: Message, device: str, roles: Mapping[str, str]) -> dict[str, Array]:
    """Call a function with the arrays by the roles of its parameters."""
    arithmetic = DOUBLE if device == "cpu" else SINGLE
    module = execute(str(request.header["program"]))
    function = getattr(module, str(request.header["function"]))
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    tensors = {
        role: torch.from_numpy(np.array(value)).to(device, arithmetic.dtype) for role, value in request.arrays.items()
    }
    arguments = {name: tensors[roles[name]].requires_grad_() for name in names if roles.get(name) in tensors}
    with arithmetic.active():
        output = function(**arguments)
    if not isinstance(output, Tensor):
        raise TypeError("the function returns more than one tensor")
    torch.autograd.backward((output * tensors["direction"]).sum())
    results = {"output": output}
    results |= {f"gradient/{name}": value.grad for name, value in arguments.items() if value.grad is not None}
    return {name: value.detach().double().cpu().numpy() for name, value in results.items()}
