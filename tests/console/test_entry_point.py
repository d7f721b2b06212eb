"""The start of `asi-arch`, before it reads its arguments."""

import platform
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.console.conftest import bare_environment

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize("start", ["module", "script"])
def test_an_interrupt_during_the_imports_ends_it_without_a_traceback(tmp_path: Path, start: str) -> None:
    """Cold imports take half a second. (The signal comes with one of the first modules.)"""
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)")
    module, _, function = tomllib.loads(PROJECT.read_text())["project"]["scripts"]["asi-arch"].partition(":")
    arguments = (
        ["-m", "services.console"] if start == "module" else ["-c", f"from {module} import {function} as f; f()"]
    )
    command = [sys.executable, *arguments, "runs"]
    environment = bare_environment(tmp_path, PYTHONPATH=str(tmp_path))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_version_is_told() -> None:
    """For reports of faults; an installed package has the same one."""
    command = [sys.executable, "-m", "services.console", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout == f"asi-arch {version('asi-arch')}, Python {platform.python_version()}\n"


@pytest.mark.parametrize("package", ["typer", "nats"])
def test_a_missing_package_is_named(tmp_path: Path, package: str) -> None:
    """A machine may have the extras of some services alone: of the command line's, or of one command's."""
    (tmp_path / f"{package}.py").write_text("raise ModuleNotFoundError(name=__name__)")
    command = [sys.executable, "-m", "services.console", "watch", "r1"]
    environment = bare_environment(tmp_path, PYTHONPATH=str(tmp_path))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    needed = f"asi-arch: this needs the package {package}, which is not installed: pip install 'asi-arch[all]'\n"
    assert (done.returncode, done.stderr) == (1, needed)
