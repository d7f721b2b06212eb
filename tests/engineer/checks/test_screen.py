"""Texts that attack their parser, and bounds on texts of verdicts."""

import pytest

from services.engineer.checks.report import EVIDENCE_CHARACTERS, JSON, Verdict
from services.engineer.checks.screen import screen

HOSTILE = {
    "chained attributes": ("x = a" + ".b" * 80_000, "nested too deeply"),
    "deep stores": ("torch" + ".b" * 150 + " = 1\n" + "torch" + ".b" * 300 + " = 1", "nested too deeply"),
    "replacement fields": ("f'" + "{x}" * 60_000 + "'", "more than 4000 opening braces"),
    "null byte": ("import torch\n\0", "line 2: the text holds a null byte"),
    "half a character": ("x = '\ud800'", "line 1: the text holds half of a surrogate pair"),
    "long module name": ("import " + "a." * 900 + "a", "line 1: import of a.a"),
    "longer module name": ("import " + "a." * 100_000 + "a", "more than 1000 dots"),
    "module name over lines": ("if 1: from a" + ".\\\n a" * 40_000 + " import b", "more than 1000 dots"),
    "name that rewrites a terminal": ("getattr(x, '__\x1b[2J__')", "line 1: .__\\x1b[2J__ is not allowed"),
}


@pytest.mark.parametrize(("program", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_source_is_refused_with_a_short_message(program: str, message: str) -> None:
    """The parser's own errors were empty, endless, or raised in the engineer."""
    finding = screen(program)

    assert finding.violated
    assert message in finding.message
    assert len(finding.message) < 300


def test_ordinary_attribute_chains_and_underscores_pass() -> None:
    """Reshaping is written as a chain of calls, and some editors put a byte order mark in front."""
    assert not screen("\ufeffimport torch\n\n\ndef f(x):\n    return x" + ".view(-1).float()" * 20).violated


def test_a_demonstration_that_never_runs_is_not_screened() -> None:
    """Many programs end with one; a program is never the main module."""
    demonstration = "if __name__ == '__main__':\n    import requests\n    open('x')\n"

    assert not screen(demonstration).violated
    assert "import of requests" in screen(demonstration + "else:\n    import requests\n").message
    assert screen("if __name__ != '__main__':\n    import requests\n").violated
    assert screen("class A(metaclass=Named):\n    " + demonstration.replace("\n", "\n    ")).violated


@pytest.mark.parametrize(
    "binding",
    [
        "__name__ = '__main__'", "(__name__ := '__main__')", "for __name__ in ['__main__']: pass",
        "def f(__name__): pass", "def f(*__name__): pass", "f = lambda *, __name__: 1", "def __name__(): pass",
        "class __name__: pass", "import math as __name__", "from fla import __name__",
        "try: f()\nexcept TypeError as __name__: pass", "match 'a':\n    case __name__: pass",
        "match ['a']:\n    case [*__name__]: pass", "match {}:\n    case {**__name__}: pass",
    ],
)  # fmt: skip
def test_no_program_binds_the_name_on_which_demonstrations_depend(binding: str) -> None:
    """With a value of its own, for instance of an argument, the demonstration would run."""
    assert "__name__ is not allowed" in screen(f"{binding}\n").message


def test_script_decorators_pass_but_the_rest_of_their_module_does_not() -> None:
    """They are replaced when a program is loaded; torch.jit.load reads files."""
    assert not screen("import torch\n\n\n@torch.jit.script\ndef f(x):\n    return x\n").violated
    assert not screen("import torch\n\nrows = torch.jit.annotate(list[torch.Tensor], [])\n").violated
    assert not screen("import torch\n\n\nclass A:\n    scale: torch.jit.Final[float]\n").violated
    for text in ("torch.jit.load('x')", "torch.jit", "torch.jit.trace(f, x)"):
        assert screen(f"import torch\n\n{text}\n").violated


def test_a_refused_module_comes_with_what_to_use_instead() -> None:
    """Who reads only the sentence must be able to mend the program."""
    assert "such as torch.linspace" in screen("import numpy as np\nx = np.linspace(0, 1)\n").message
    assert "@torch.jit.script" in screen("from torch.jit import script\n").message
    assert "rename a variable" in screen("vars = 1\n").message
    assert "rewrite the program in PyTorch" in screen("import mlx.core as mx\n").message
    assert "line 3: import of jax" in screen("import os\nos.environ['A'] = 'b'\nimport jax\n").message
    assert "on each tensor" in screen("from torch.utils._pytree import tree_map\n").message
    assert "in one process" in screen("from torch import distributed as dist\n").message
    assert "so copy what it uses into it" in screen("from .norms import RMSNorm\n").message
    assert "copy what else it uses into it" in screen("import opt_einsum\n").message
    assert "call setattr" in screen("x.__dict__['a'] = 1\n").message
    assert "remove the line" in screen("import torch\ntorch.backends.cudnn.benchmark = True\n").message
    assert "remove the line" in screen("import torch\nsetattr(torch.Tensor, 'backward', None)\n").message
    assert "no other library" in screen("import importlib.util\na = importlib.util.find_spec('flash_attn')\n").message
    assert not screen("import logging\n\nlogger = logging.getLogger(__name__)\n").violated
    assert screen("import logging.handlers\n").violated


@pytest.mark.parametrize(
    "program",
    [
        "import json", "import math, os", "import os.path as path", "from random import choice",
        "import time\nif __name__ == '__main__':\n    time.time()", "import numpy", "import numpy as n\nx = n.sqrt(2)",
        "import numpy as np\ndef f(x: np.ndarray): return x / np.pi", "from numpy import pi, sqrt\nx = sqrt(pi)",
        "import operator as op\nf = op.mul", "import operator",
    ],
)  # fmt: skip
def test_a_header_may_be_copied_with_modules_that_nothing_uses(program: str) -> None:
    """They are in the memory of each child; of numpy, functions of single numbers may be used, too."""
    assert not screen(f"{program}\n").violated


@pytest.mark.parametrize(
    "program",
    [
        "import json\nx = json", "import math, os\nos.environ['A'] = 'b'", "import os.path as path\npath.exists('x')",
        "from random import choice\ny = [choice]", "from time import *", "import matplotlib", "import json, requests",
        "import numpy as np\nx = np.sqrt(2)\ny = np.zeros(2)", "import numpy as np\nf = np",
        "from numpy import random\nrandom.seed(0)", "import numpy.linalg as la\nla.svd(1)", "import json, torch.hub",
        "class A:\n    from os import getpid\ny = A.getpid()", "class A:\n    import gc as g\ny = A().g.get_objects()",
        "from typing import get_type_hints as hints", "import typing as t\ny = t.ForwardRef('f()')",
        "import numpy as np\nnp.pi = 3", "import operator\nf = operator.attrgetter('a')",
    ],
)  # fmt: skip
def test_what_is_used_of_other_modules_is_refused(program: str) -> None:
    """The names are looked for wherever they may stand."""
    assert screen(f"{program}\n").violated


def test_names_with_underscores_that_describe_a_program_or_class_pass() -> None:
    """Headers name authors, states of scans have slots, and scripted modules constants."""
    for name in ("__author__", "__license__", "__slots__", "__constants__"):
        assert not screen(f"class A:\n    {name} = ('a',)\n").violated, name
    assert "__import__ is not allowed: remove what uses it" in screen("os = __import__('os')\n").message


@pytest.mark.parametrize("caught", ["except ImportError:", "except (ModuleNotFoundError, OSError):", "except:"])
def test_a_program_may_try_to_import_kernels_that_are_absent_here(caught: str) -> None:
    """Published layers choose them where they are installed, and fall back on plain torch."""
    attempt = f"try:\n    from mamba_ssm.ops import scan\n    import xformers, triton\n{caught}\n    scan = None\n"

    assert not screen(attempt).violated
    assert screen(attempt.replace(caught, "except KeyError:")).violated
    assert screen(attempt.replace("xformers", "requests")).violated
    assert "catch its ImportError" in screen("import mamba_ssm\n").message


def test_a_program_may_ask_transformers_whether_to_initialise_its_weights() -> None:
    """The flag was removed from transformers, and layers of RWKV fall back on True; they get nothing else of it."""
    attempt = "try:\n    from transformers.modeling_utils import _init_weights\nexcept ImportError:\n    pass\n"

    assert not screen(attempt).violated
    assert screen(attempt.replace("ImportError", "KeyError")).violated
    assert screen(attempt.replace("_init_weights", "_init_weights, PreTrainedModel")).violated
    assert screen(attempt.replace("modeling_utils", "trainer")).violated
    assert screen(attempt.replace("from transformers.modeling_utils import _init_weights", "from . import x")).violated


def test_of_some_modules_only_harmless_names_may_be_imported() -> None:
    """`operator.attrgetter` reads any attribute, and transformers.utils fetches files."""
    assert not screen("from operator import mul\nfrom transformers.utils import logging\n").violated
    for text in (
        "from operator import attrgetter\nf = attrgetter('a')",
        "import transformers.utils as utils",
        "from transformers.utils import hub",
        "from transformers.utils.hub import cached_file",
    ):
        assert screen(f"{text}\n").violated, text


def test_a_verdict_is_printable_and_bounded() -> None:
    """Thirty megabytes of evidence were stored once, and escapes could rewrite FAIL to ok on a terminal."""
    evidence: dict[str, JSON] = {"text": "\x1b[2J\r" + "x" * (1 << 20), "list": ["y" * 1000] * 1000, "kept": 1.5}
    verdict = Verdict("runs", "fail", "\x1b[1A\x1b[2Kok  runs" + "z" * 10_000, evidence)

    assert verdict.message.startswith("\\x1b[1A\\x1b[2Kok  runs")
    assert verdict.message.endswith("more characters left out]")
    assert len(str(verdict.evidence)) < 2 * EVIDENCE_CHARACTERS
    assert "\x1b" not in str(dict(verdict.evidence)["text"])


def test_evidence_within_bounds_is_kept_as_it_is() -> None:
    """Numbers, nesting and newlines are what a rewriter reads."""
    evidence: dict[str, JSON] = {
        "line": 3,
        "objections": [{"line": 3, "reason": "open is not allowed"}],
        "traceback": "a\n\tb",
        "n": None,
    }

    assert Verdict("screen", "fail", "line 3: no open", evidence).evidence == evidence
