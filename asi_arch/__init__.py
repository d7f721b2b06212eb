"""The Python API (`from asi_arch import Laboratory`), and the types of plug-ins (`moves`, `probes`, `evaluators`).

`Laboratory` is imported on use, since it needs the packages of the command line: a plug-in of a service, which imports
`asi_arch.moves`, runs where only that service is installed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asi_arch.laboratory import Laboratory, StartedRun

__all__ = ["Laboratory", "StartedRun"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from asi_arch import laboratory

    value: object = getattr(laboratory, name)
    return value
