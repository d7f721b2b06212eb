"""Guest jobs of the sandbox's own tests."""

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from services.sandbox.wire import Channel
from tests.sandbox.integrity import Guard

WIDTH = 8


def echo(channel: Channel) -> None:
    """Send back what comes, until the engineer hangs up."""
    while True:
        message = channel.receive()
        channel.send(message.kind, message.header, message.arrays)


def ask_mps(channel: Channel) -> None:
    """Send what the socket `control` in the folder of MPS says, or why it cannot be asked."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(5)
            line.connect(f"{os.environ['CUDA_MPS_PIPE_DIRECTORY']}/control")
            channel.send("answer", {"said": line.recv(100).decode()})
    except (OSError, KeyError) as error:
        channel.send("answer", {"said": type(error).__name__})


def examine(channel: Channel) -> None:
    """Load a program, say so, then run forward and backward on each input that comes and send the output."""
    source = channel.receive().header["program"]
    guard = Guard()
    module: dict[str, object] = {"__name__": "candidate"}
    exec(compile(str(source), "candidate", "exec"), module)  # noqa: S102 -- what a sandbox is for
    mixer = module["Mixer"](WIDTH)  # type: ignore[operator]
    _require(guard)
    channel.send("loaded")
    while (order := channel.receive()).kind == "run":
        output = mixer(torch.from_numpy(order.arrays["input"].copy()))
        output.sum().backward()
        _require(guard)
        channel.send("output", {}, {"output": output.detach().numpy()})


def _require(guard: Guard) -> None:
    if findings := guard.findings():
        raise RuntimeError("; ".join(findings))


def kernels(channel: Channel) -> None:
    """Say which instructions torch's own kernels use."""
    channel.send("kernels", {"capability": torch.backends.cpu.get_cpu_capability()})


def leave_daemon(channel: Channel) -> None:
    """Start a process in a session of its own, say so, and end."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    channel.send("left")


def wait(channel: Channel) -> None:
    """Say hello and sleep."""
    channel.send("here", {"user": os.getuid()})
    time.sleep(600)


def spin(channel: Channel) -> None:
    """Compute without end on one processor."""
    del channel
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    while True:
        pass


def run_program(channel: Channel) -> None:
    """Start a program and say what it said."""
    done = subprocess.run(["/bin/echo", "hello"], capture_output=True, text=True, check=True)
    channel.send("ran", {"said": done.stdout.strip()})


def compile_and_load(channel: Channel) -> None:
    """Compile a shared library as Triton compiles its launchers, load it and say what it computes."""
    cache = Path(os.environ["TRITON_CACHE_DIR"])
    (cache / "launcher.c").write_text("int twice(int x) { return 2 * x; }")
    library = cache / "launcher.so"
    command = ["gcc", "-shared", "-fPIC", "-O2", str(cache / "launcher.c"), "-o", str(library)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    channel.send("ran", {"twice": ctypes.CDLL(str(library)).twice(21)})


def start_as_cuda(channel: Channel) -> None:
    """Do what NVIDIA's driver does, name a thread through /proc and listen on an abstract socket, and try more."""
    named = threading.Event()
    thread = threading.Thread(target=named.wait)
    thread.start()  # waits until it runs
    comm, address = Path(f"/proc/self/task/{thread.native_id}/comm"), f"\0cuda-uvmfd-4026531836-{os.getpid()}"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(address)
    listening.listen()
    comm.write_text("renamed")
    more = []
    attempts: dict[str, Callable[[], object]] = {
        "a setting of the machine": lambda: Path("/proc/sys/kernel/core_pattern").open("a").close(),
        "connect": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(address),
        "accept": lambda: listening.accept(),
        "stream": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        "internet": lambda: socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET),
    }
    for name, attempt in attempts.items():
        with contextlib.suppress(OSError):
            listening.settimeout(1)
            attempt()
            more.append(name)
    channel.send("said", {"said": comm.read_text().strip(), "more": more})
    named.set()


def describe(channel: Channel) -> None:
    """Tell where we are and what we were given."""
    channel.send("here", {"folder": str(Path.cwd()), "environment": sorted(os.environ)})
