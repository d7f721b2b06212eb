"""Write one architecture as a Python package of its own; `python -m services.engineer.export` does so for the console.

A package holds the program as it was measured, the parts that it imports, a model around it, and its card.
"""

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


def write_state(content: bytes, path: Path) -> None:
    """A safetensors artifact as a file for `torch.load(…, weights_only=True)`."""
    torch.save(load(content), path)


RENAMED = (
    ("services.engineer.export.template.kernels", "kernels"),
    ("services.fla_cpu", "parts"),
    ("services.engineer.program", "construction"),
    ("services.engineer.training.model", "model"),
    ("services.engineer.training.sizes", "sizes"),
)
"""Our modules, and what they are called in a package."""
CONSTRUCTION = (
    program.ProgramError, program.NoMixer, program.BadConstructor, program.MixerSizes, program.mixer_of_layer,
    program.block_layout, program.find_mixer, program.construct, program.usual_arguments, program.synonyms,
    program._takes_hidden_states, program._constructed,
)  # fmt: skip
CONSTRUCTION_HEAD = '''"""From the program to its mixer: which class it is, and with what it is constructed."""

import ast
import inspect
from dataclasses import dataclass
from types import ModuleType

from torch import nn

PREFERRED = "DeltaNet"
LAYERS, BLOCK = "LAYERS", "BLOCK"
LAYOUTS = ("sequential", "parallel")
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
    """Write everything below `folder`, which must not hold the package yet; the package's own folder.

    Raises FileExistsError.
    """
    name = package_name(card.name)
    place = folder / name
    place.mkdir(parents=True)
    (place / "program.py").write_text(source, encoding="utf-8")
    here = Path(template.__file__).parent
    _copy(here / "package.py", place / "__init__.py", name)
    _copy(here / "kernels.py", place / "kernels.py", name)
    _copy(here / "sizes.py", place / "sizes.py", name)
    _copy(Path(model.__file__), place / "model.py", name)
    _copy_parts(place / "parts", name)
    (place / "construction.py").write_text(_construction(), encoding="utf-8")
    layers = [f"layer_{number}.py" if text else "" for number, text in enumerate(sizes.layers)]
    for file, text in zip(layers, sizes.layers, strict=True):
        if file:
            (place / file).write_text(text, encoding="utf-8")
    (place / "sizes.json").write_text(json.dumps({**asdict(sizes), "layers": layers}, indent=2), encoding="utf-8")
    (place / "card.json").write_text(as_json(card), encoding="utf-8")
    if weights is not None:
        write_state(weights, place / "weights.pt")
    (folder / "README.md").write_text(as_markdown(card, name, sizes), encoding="utf-8")
    (folder / "example.py").write_text(_example(name, weights is not None), encoding="utf-8")
    requirements = ", ".join(f'"{one}"' for one in requirements_of(source))
    project = PROJECT.format(name=name, title=card.name.replace('"', ""), requirements=requirements)
    (folder / "pyproject.toml").write_text(project, encoding="utf-8")
    return place


def package_name(title: str) -> str:
    """An import name, as in "cross_head_delta_net" for "CrossHeadDeltaNet"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", title).strip("_").lower()
    return words if words and words[0].isalpha() else f"mixer_{words}".rstrip("_")


def requirements_of(source: str) -> list[str]:
    """What has to be installed beside Python."""
    return ["torch>=2.4"] + (["einops>=0.8"] if re.search(r"^\s*(from|import)\s+einops", source, re.MULTILINE) else [])


def _copy_parts(place: Path, name: str) -> None:
    """Our CPU version of fla's parts, under the package's own name."""
    root = Path(fla_cpu.__file__).parent
    for file in sorted(root.rglob("*.py")):
        _copy(file, place / file.relative_to(root), name)
    about = '"""The parts of flash-linear-attention that programs import, in plain PyTorch."""\n'
    (place / "__init__.py").write_text(about, encoding="utf-8")


def _copy(source: Path, target: Path, name: str) -> None:
    """A module of ours with its imports rewritten to the package."""
    text = source.read_text(encoding="utf-8")
    for ours, theirs in RENAMED:
        text = text.replace(ours, f"{name}.{theirs}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def _construction() -> str:
    return "\n\n".join([CONSTRUCTION_HEAD, *(inspect.getsource(one) for one in CONSTRUCTION)])


def _example(name: str, trained: bool) -> str:
    how = (
        "load()" if trained else "build(seed=0)  # fresh initial values, whose text is noise: the weights were not kept"
    )
    return (
        f'"""A few words from {name}."""\n\nimport {name}\n\n'
        f"model = {name}.{how}\n"
        f"print(sum(parameter.numel() for parameter in model.parameters()), 'parameters')\n"
        f"tokens = {name}.generate(model, {name}.encode('def '), count=40, temperature=0.8)\n"
        f"print({name}.decode(tokens))\n"
    )
