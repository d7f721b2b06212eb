"""Detects programs that replace torch's loss, optimiser or random generators, or Python's built-ins.

It runs in the candidate's process, so it can be circumvented, and nothing but the tests uses it: scores are computed
outside this process.
"""

import atexit
import builtins
import importlib
import signal
import sys
import threading
import types

_WATCHED = {
    "torch.nn.functional": ("cross_entropy nll_loss mse_loss linear softmax log_softmax scaled_dot_product_attention"),
    "torch.nn": (
        "Module Linear Parameter Module.__call__ Module._call_impl Module.parameters Module.named_parameters "
        "Module.state_dict Module.load_state_dict Module.train CrossEntropyLoss.forward"
    ),
    "torch.nn.utils": "clip_grad_norm_",
    "torch.optim": "AdamW AdamW.step AdamW.__init__ Optimizer.step Optimizer.zero_grad Adam.step SGD.step",
    "torch": (
        "Tensor Tensor.backward Tensor.detach Tensor.numpy Tensor.item Tensor.cpu manual_seed seed "
        "initial_seed rand randn randint randperm Generator load save from_numpy isfinite equal allclose "
        "no_grad inference_mode set_grad_enabled autocast"
    ),
    "torch.random": "manual_seed",
    "torch.autograd": "grad backward Function.apply",
    "random": "random seed randint",
    "time": "time monotonic perf_counter",
    "json": "dumps loads",
    "os": "write readv _exit",
    "numpy": "ascontiguousarray frombuffer isfinite",
    "services.sandbox.wire": "Channel.send Channel.receive encode decode",
    "tests.sandbox.integrity": "Guard.findings",
}
_NAMES = [f"{module}:{path}" for module, paths in _WATCHED.items() for path in paths.split()]
_ABSENT = object()


class Guard:
    """Records the identity of key functions; `findings` lists those that have been replaced since."""

    def __init__(self) -> None:
        self._before = {name: _look_up(name) for name in _NAMES}
        self._code = {name: _code(value) for name, value in self._before.items()}
        self._builtins = dict(vars(builtins))
        self._surroundings = _surroundings()
        self._hooks = (list(sys.meta_path), list(sys.path_hooks), sys.gettrace(), sys.getprofile())

    def findings(self) -> list[str]:
        """One sentence for each change."""
        replaced = [name for name in _NAMES if self._changed(name)]
        names = {name for name in self._builtins if vars(builtins).get(name, _ABSENT) is not self._builtins[name]}
        sentences = [f"{name.replace(':', '.')} was replaced" for name in replaced]
        sentences += [f"the built-in {name} was replaced" for name in sorted(names - {"_"})]
        return sentences + self._hook_findings()

    def _changed(self, name: str) -> bool:
        now = _look_up(name)
        return now is not self._before[name] or _code(now) is not self._code[name]

    def _hook_findings(self) -> list[str]:
        finders, path_hooks, trace, profile = self._hooks
        sentences = []
        if any(finder not in finders for finder in sys.meta_path) or sys.path_hooks != path_hooks:
            sentences.append("an import hook was installed")
        if sys.gettrace() is not trace or sys.getprofile() is not profile:
            sentences.append("a tracing function was installed")
        now = _surroundings()
        sentences += [f"{what} changed" for what, before in self._surroundings.items() if now[what] != before]
        return sentences + _global_hooks()


def _surroundings() -> dict[str, object]:
    """State of the process that candidate code must not change."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return {
        "the signal handlers": handlers,
        "the number of running threads": threading.active_count(),
        "the handlers run at exit": atexit._ncallbacks(),
        "the recursion limit": sys.getrecursionlimit(),
    }


def _global_hooks() -> list[str]:
    """Global hooks of torch's modules and optimisers."""
    modules = importlib.import_module("torch.nn.modules.module")
    optimisers = importlib.import_module("torch.optim.optimizer")
    tables = [(modules, name) for name in vars(modules) if name.startswith("_global_") and name.endswith("_hooks")]
    tables += [(optimisers, name) for name in vars(optimisers) if name.startswith("_global_optimizer")]
    return [f"a global hook was installed in {name}" for module, name in tables if getattr(module, name)]


def _look_up(name: str) -> object:
    """The object at "module:path", unbound so that its identity is stable; a marker if it is missing."""
    module, _, path = name.partition(":")
    value: object = importlib.import_module(module)
    for part in path.split("."):
        value = getattr(value, part, _ABSENT)
        if isinstance(value, types.MethodType):
            value = value.__func__
    return value if isinstance(value, (type, types.FunctionType)) or value is _ABSENT else _key(value)


_KEYS: dict[int, object] = {}


def _key(value: object) -> object:
    """An object with a stable identity: C functions are bound at each look-up, so they compare by owner and name."""
    if isinstance(value, types.BuiltinMethodType) and value.__self__ is not None:
        return _KEYS.setdefault(hash((id(value.__self__), value.__name__)), (value.__self__, value.__name__))
    return value


def _code(value: object) -> object:
    return value.__code__ if isinstance(value, types.FunctionType) else None
