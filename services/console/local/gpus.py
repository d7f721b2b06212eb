"""GPUs that this process may use, found without torch."""

import os
import shutil
import subprocess
from collections.abc import Mapping

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus(environment: Mapping[str, str] | None = None) -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them: what that variable leaves, else every GPU that nvidia-smi lists."""
    environment = os.environ if environment is None else environment
    if VISIBLE in environment:
        named = [one.strip() for one in environment[VISIBLE].split(",")]
        return [one for one in named if one and one not in ("-1", "NoDevFiles")]
    tool = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if tool is None:
        return []
    done = subprocess.run(
        [tool, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return [one.strip() for one in done.stdout.splitlines() if one.strip()] if done.returncode == 0 else []
