"""Exports an architecture as a Python package: its program, the parts of fla it imports, its model, and a card."""

import inspect
import json
import re
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load

from services import fla_cpu
from services.engineer import program
from services.engineer.export import template
from services.engineer.export.card import Card, as_json, as_markdown
from services.engineer.training import model
from services.engineer.training.sizes import ModelSizes

RENAMED = (
    ("services.engineer.export.template.kernels", "kernels"),
    ("services.fla_cpu", "parts"),
    ("services.engineer.program", "construction"),
    ("services.engineer.training.model", "model"),
    ("services.engineer.training.sizes", "sizes"),
)
"""Modules and their names in a package."""
CONSTRUCTION = (
    program.ProgramError, program.NoMixer, program.BadConstructor, program.MixerSizes, program.mixer_of_layer,
    program.block_layout, program.find_mixer, program.construct, program._constructed_with_fewer, program._arguments,
    program._dataclass_of, program._unknown_argument, program.usual_arguments, program.synonyms, program.rare_synonyms,
    program._takes_hidden_states, program._constructed,
)  # fmt: skip
CONSTRUCTION_HEAD = f'''"""Finds a program's mixer class and constructs it."""

import ast
import inspect
from ast import parse
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from functools import lru_cache
from types import ModuleType

import torch
from torch import nn

PREFERRED = "{program.PREFERRED}"
LAYERS, BLOCK = "{program.LAYERS}", "{program.BLOCK}"
LAYOUTS = {program.LAYOUTS}
OPTIONS = {program.OPTIONS}
HEADS = {program.HEADS}
KEY_VALUE_HEADS = {program.KEY_VALUE_HEADS}
VOCABULARY = {program.VOCABULARY}
'''
SIZES_HEAD = '''"""The shape of the language model around the mixer; programs of layers are names of files."""

from dataclasses import dataclass


'''
PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "1.0.0"
description = "{title}: a linear-attention architecture with the language model it was measured in"
requires-python = ">=3.11"
dependencies = [{requirements}]

[tool.setuptools.package-data]
"{name}" = ["*.json", "*.pt"]
"""


def write_package(folder: Path, card: Card, source: str, sizes: ModelSizes, weights: bytes | None) -> Path:
    """Write the package and its project files below `folder`; returns the package's folder. Raises FileExistsError."""
    name = package_name(card.name)
    package = folder / name
    package.mkdir(parents=True)
    templates, parts = Path(template.__file__).parent, Path(fla_cpu.__file__).parent
    for target, source_name in (("__init__.py", "package.py"), ("kernels.py", "kernels.py")):
        _copy(templates / source_name, package / target, name)
    _copy(Path(model.__file__), package / "model.py", name)
    for file in sorted(parts.rglob("*.py")):
        _copy(file, package / "parts" / file.relative_to(parts), name)
    layers = [f"layer_{number}.py" if text else "" for number, text in enumerate(sizes.layers)]
    construction = "\n\n".join([CONSTRUCTION_HEAD, *(inspect.getsource(part) for part in CONSTRUCTION)])
    requirements = ", ".join(f'"{requirement}"' for requirement in requirements_of(source))
    texts = {
        package / "program.py": source,
        package / "parts/__init__.py": '"""Parts of flash-linear-attention in plain PyTorch."""\n',
        package / "construction.py": construction,
        package / "sizes.py": SIZES_HEAD + inspect.getsource(ModelSizes),
        **{package / file: text for file, text in zip(layers, sizes.layers, strict=True) if file},
        package / "sizes.json": json.dumps({**asdict(sizes), "layers": layers}, indent=2),
        package / "card.json": as_json(card),
        folder / "README.md": as_markdown(card, name, sizes),
        folder / "example.py": _example(name, weights is not None),
        folder / "pyproject.toml": PROJECT.format(
            name=name, title=card.name.replace('"', ""), requirements=requirements
        ),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    if weights is not None:
        torch.save(load(weights), package / "weights.pt")
    return package


def package_name(title: str) -> str:
    """An import name, such as "cross_head_delta_net" for "CrossHeadDeltaNet"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", title).strip("_").lower()
    return words if words and words[0].isalpha() else f"mixer_{words}".rstrip("_")


def requirements_of(source: str) -> list[str]:
    """The requirements of a program's package."""
    return ["torch>=2.4"] + (["einops>=0.8"] if re.search(r"^\s*(from|import)\s+einops", source, re.MULTILINE) else [])


def _copy(source: Path, target: Path, name: str) -> None:
    """Copy a module and rewrite its imports."""
    text = source.read_text(encoding="utf-8")
    for module, renamed in RENAMED:
        text = text.replace(module, f"{name}.{renamed}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def _example(name: str, trained: bool) -> str:
    call = "load()" if trained else "build(seed=0)  # initial values generate noise: the trained weights were not kept"
    return (
        f'"""Text generated by {name}."""\n\nimport {name}\n\n'
        f"model = {name}.{call}\n"
        f"print(sum(parameter.numel() for parameter in model.parameters()), 'parameters')\n"
        f"tokens = {name}.generate(model, {name}.encode('def '), count=40, temperature=0.8)\n"
        f"print({name}.decode(tokens))\n"
    )
