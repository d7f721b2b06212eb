"""What tests of several services share."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest


def _programs_packages() -> dict[str, ModuleType]:
    names = ("fla", "transformers")
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}


@pytest.fixture(scope="module")
def guest() -> Iterator[None]:
    """This process as programs find a sandboxed child; afterwards as it was: others use the real packages."""
    import torch

    from services.engineer.program import prepare_guest

    before, compiler = _programs_packages(), torch.compile
    for name in before:
        del sys.modules[name]
    prepare_guest()
    yield
    for name in _programs_packages():
        del sys.modules[name]
    sys.modules.update(before)
    torch.compile = compiler
