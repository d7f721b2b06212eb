"""The same random numbers in each run, and fla's own plain reference functions, which are loaded by path."""

import importlib.util
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Differences by rounding must not exceed a tolerance by chance."""
    torch.manual_seed(20)


def load(path: str) -> ModuleType:
    """The module of fla at this path, independent of what `fla` is in this process."""
    root = PathFinder.find_spec("fla")
    assert root is not None
    assert root.submodule_search_locations is not None
    file = Path(root.submodule_search_locations[0]) / path
    specification = importlib.util.spec_from_file_location(path.replace("/", "_")[:-3], file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def reference() -> Callable[[str], ModuleType]:
    """`reference("gla")` is the module of naive functions of fla.ops.gla."""
    return lambda operator: load(f"ops/{operator}/naive.py")
