"""The lists behind the static screen."""

# A module is allowed when it or one of its parents is listed here and none in FORBIDDEN_MODULES.
ALLOWED_IMPORTS = frozenset(
    {
        "__future__",
        "abc",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "einops",
        "enum",
        "fla",
        "functools",
        "itertools",
        "math",
        "torch",
        "transformers.processing_utils",
        "typing",
        "typing_extensions",
        "warnings",
    }
)

ONLY_THESE = {"transformers.processing_utils": frozenset({"Unpack"})}

# Where a name that is only known at run time (`getattr(F, activation)`) leads to functions on tensors and no further.
PURE_MODULES = frozenset({"F", "nn.functional", "torch.nn.functional"})

# Also refused as dotted names, since `import torch` reaches them without an import of their own.
FORBIDDEN_MODULES = frozenset(
    {
        "torch.classes",
        "torch.cuda.memory",
        "torch.distributed",
        "torch.export",
        "torch.hub",
        "torch.jit",
        "torch.library",
        "torch.load",
        "torch.multiprocessing",
        "torch.onnx",
        "torch.ops",
        "torch.optim",
        "torch.overrides",
        "torch.package",
        "torch.save",
        "torch.serialization",
        "torch.storage",
        "torch.utils.cpp_extension",
        "torch.utils.dlpack",
        "torch.utils.model_zoo",
        "torch.utils.tensorboard",
    }
)

FORBIDDEN_NAMES = frozenset(
    {
        "breakpoint",
        "compile",
        "eval",
        "exec",
        "exit",
        "globals",
        "locals",
        "open",
        "quit",
        "vars",
    }
)

# Ways out of the program into the interpreter, the files or the process, on any object.
FORBIDDEN_ATTRIBUTES = frozenset(
    {
        "_C",
        "builtins",
        "cr_frame",
        "ctypes",
        "data_ptr",
        "dump",
        "dumps",
        "f_back",
        "f_builtins",
        "f_globals",
        "f_locals",
        "from_file",
        "func_globals",
        "gi_code",
        "gi_frame",
        "importlib",
        "multiprocessing",
        "os",
        "pickle",
        "set_default_device",
        "set_default_dtype",
        "set_default_tensor_type",
        "set_num_interop_threads",
        "set_num_threads",
        "set_rng_state",
        "share_memory_",
        "socket",
        "subprocess",
        "sys",
        "tb_frame",
        "threading",
        "tofile",
    }
)

# What usual programs spell with double underscores, in definitions, calls of super() and messages.
HARMLESS_DUNDERS = frozenset(
    {
        "__all__",
        "__annotations__",
        "__call__",
        "__class__",
        "__doc__",
        "__enter__",
        "__eq__",
        "__exit__",
        "__getattr__",
        "__getitem__",
        "__init__",
        "__init_subclass__",
        "__iter__",
        "__len__",
        "__main__",
        "__name__",
        "__post_init__",
        "__qualname__",
        "__repr__",
        "__setattr__",
        "__version__",
    }
)
