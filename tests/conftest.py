"""Real servers for tests: a nats-server for each, a mongod per session."""

import asyncio
import atexit
import contextlib
import gc
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from types import FrameType, ModuleType

import hypothesis
import pytest
import pytest_asyncio
import structlog
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from services.chassis.bus import Bus
from services.chassis.settings import ServiceSettings
from services.local.processes import Broker
from services.sandbox.processes import descendants, kill
from tests.mongod import Mongod, mongod_binary

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what it runs in the background, and children inherit it; some tests press Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


hypothesis.settings.register_profile("tests", parent=hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("tests")  # a busy machine is no failure
gc.disable()  # what collecting imports stays, and need not be searched for garbage, neither now nor with each test
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: xdist's workers share the cores

# Seconds that a test may take, its fixtures included: by its marker, and any other.
LIMITS = {"compose": 840, "slow": 600}  # tests/compose builds images in a fixture
PLAIN_LIMIT = 240
CLEANING_LIMIT = 60
# Files whose tests share one run of a system.
TOGETHER = ("tests/deploy/test_deployed_run.py", "tests/loop/test_discovery.py")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Twice as many workers as cores: most tests wait for servers and processes that they have started."""
    return 2 * (os.cpu_count() or 1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Whether slow tests alone are wanted and a file has none: each worker would import it and what it needs."""
    if not config.getoption("markexpr").startswith("slow") or not collection_path.name.startswith("test_"):
        return None
    own = [path for path in (collection_path, collection_path.with_name("conftest.py")) if path.exists()]
    return all("mark.slow" not in path.read_text(encoding="utf-8") for path in own) or None


def pytest_collection_finish() -> None:
    """From here on, only what tests make is searched for garbage."""
    gc.freeze()
    atexit.register(gc.unfreeze)
    gc.enable()


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Any test to any worker, but those of a file with a costly fixture to one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling | None:
    """Take the place of `--dist loadgroup`, whose groups xdist 3.8 does not see under pytest 9."""
    return Scheduling(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests of whole runs first: they take longest, and at the end no worker then waits for another's last one."""
    items.sort(key=lambda item: item.path.parent.name not in ("loop", "chaos", "deploy"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that hangs, so that its fixtures clean up; if these hang, too, end the process."""
    limit = next((limit for marker, limit in LIMITS.items() if item.get_closest_marker(marker)), PLAIN_LIMIT)

    def fail(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, _abort)
        signal.alarm(CLEANING_LIMIT)
        pytest.fail(f"the test has not ended after {limit} s\n{_stacks()}")

    signal.signal(signal.SIGALRM, fail)
    signal.alarm(limit)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _stacks() -> str:
    """Where each thread and each asyncio task of this process is."""
    text = io.StringIO()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        text.write(f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}")
    with contextlib.suppress(RuntimeError):
        for task in asyncio.all_tasks():
            text.write(f"{task!r}\n")
            with contextlib.suppress(TypeError):  # what Cython has compiled has no lines
                task.print_stack(file=text)
    return text.getvalue()


def _abort(number: int, frame: FrameType | None) -> None:
    """Kill what this process has started; faulthandler then prints all stacks, and xdist goes on in a new process."""
    for pid in descendants(os.getpid()):
        kill(pid)
    os.abort()


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A nats-server with JetStream that no other test has used.

    It is up in a few hundredths of a second, and streams of a shared one cannot be made anew in safety: nats-server
    clears away what was deleted after it has said so, which now and then takes the new stream's folder with it.
    """
    server = Broker(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """One MongoDB for the whole session, or a skip with a sentence on how to get one."""
    server = Mongod(mongod_binary(), tmp_path_factory.mktemp("mongod"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def nats_url(broker: Broker) -> str:
    """Where this test's nats-server listens."""
    return broker.url


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> ServiceSettings:
    """What every service needs to know, with a data folder of this test's own."""
    return ServiceSettings(nats_url=broker.url, data_dir=tmp_path, create_streams=True)


@pytest_asyncio.fixture
async def bus(settings: ServiceSettings) -> AsyncIterator[Bus]:
    """A connection to a server with empty streams."""
    async with Bus(settings, "tests") as connected:
        await connected.set_up()
        yield connected


def _programs_packages() -> dict[str, ModuleType]:
    names = ("fla", "transformers")
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}


@pytest.fixture(autouse=True)
def _default_logs() -> Iterator[None]:
    """Undoes what a command did that ran in this process: other tests capture logs of all levels."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()


@pytest.fixture(scope="module", autouse=True)
def _real_packages() -> Iterator[None]:
    """Undoes what a test did that ran a sandboxed child's function in this process: others use the real packages."""
    before, compiler = _programs_packages(), getattr(sys.modules.get("torch"), "compile", None)
    yield
    if _programs_packages() != before:
        for name in _programs_packages():
            del sys.modules[name]
        sys.modules.update(before)
    if compiler is not None:
        sys.modules["torch"].compile = compiler  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def prepared_child() -> None:
    """This process as programs find a sandboxed child."""
    from services.engineer.program import prepare_child

    for name in _programs_packages():
        del sys.modules[name]
    prepare_child()
