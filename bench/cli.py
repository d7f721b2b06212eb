"""Response times of the command line.

    python -m bench.cli [--records 1772] [--rounds 5] [--checks]

An archive with this number of whole records in the published format is imported with `asi-arch import`; then the
commands are run in turn. Prints the median and the minimum of the elapsed time, and the minimum CPU time of all
processes of a command, which depends less on load. `--checks` adds `asi-arch check` of a program of the zoo. Limits:
`--help` 0.3 s, queries 0.5 s, a check 3 s.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import published_archive
from services.domain.zoo import baselines

ASI_ARCH = [sys.executable, "-m", "services.console"]
LIMITS = {"--help": 0.3, "status": 0.5, "list": 0.5, "list --limit 20": 0.5, "show": 0.5, "tree": 0.5, "check": 3.0}


def timed(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Elapsed and CPU seconds of one command. Raises CalledProcessError if it fails."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*ASI_ARCH, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Generate, import, run the commands in turn, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1772)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checks", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ASI_")}
        environment |= {"ASI_DATA_DIR": f"{folder}/data", "COLUMNS": "80"}
        published_archive.write(Path(folder, "published"), arguments.records, arguments.records)
        print(f"import: {timed(['import', 'asi-arch', f'{folder}/published'], environment)[0]:.1f} s")
        program = Path(folder, "program.py")
        program.write_text(baselines()[0].program)
        commands = {name: name.split() for name in LIMITS}
        commands |= {"show": ["show", "c000500"], "check": ["check", str(program)]}
        if not arguments.checks:
            del commands["check"]
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                times[name].append(timed(command, environment))
    print(f"{'command':<18}{'median':>9}{'least':>9}{'CPU':>9}{'limit':>9}   seconds, {arguments.rounds} rounds")
    for name, pairs in times.items():
        walls, cpus = [wall for wall, _ in pairs], [cpu for _, cpu in pairs]
        numbers = (statistics.median(walls), min(walls), min(cpus), LIMITS[name])
        print(f"{name:<18}" + "".join(f"{number:9.2f}" for number in numbers))


if __name__ == "__main__":
    main()
