"""The check's job in the sandboxed child: loads the program, runs the probes, streams what they find.

What it reports is the child's claim. Candidate code runs in this process, so the host takes nothing from here but
findings of known probes, decides itself which of them are fatal, and takes silence for failure.
"""

from functools import partial
from typing import cast

from torch import nn

from services.engineer.checks.probing import findings
from services.engineer.checks.settings import CheckSettings
from services.engineer.checks.subject import Subject
from services.engineer.program import MixerSizes, load_mixer, prepare_guest
from services.sandbox.wire import Channel


def run(channel: Channel) -> None:
    """Receives one program with its settings; sends `started` and `finding` for each probe, and `finished`."""
    request = channel.receive()
    settings = CheckSettings.from_json(cast("dict[str, object]", request.header["settings"]))
    prepare_guest()
    subject = Subject(partial(build, str(request.header["program"])), settings)
    for probe, finding in findings(subject):
        if finding is None:
            channel.send("started", {"probe": probe.name})
        else:
            channel.send("finding", {"probe": probe.name, **finding.to_json()})
    channel.send("finished", {})


def build(program: str, width: int, heads: int) -> nn.Module:
    """The program's mixer at these sizes."""
    return load_mixer(program, MixerSizes(width=width, heads=heads))
