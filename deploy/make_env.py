"""Make a deployment's credentials, deploy/.env and deploy/nats.conf: `.venv/bin/python deploy/make_env.py [--tls]`.

Where only docker is at hand the same runs in any of the images: see README.md beside this file.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from services.chassis.bus.credentials import main  # noqa: E402 - found by the line above

if __name__ == "__main__":
    main([str(HERE), *sys.argv[1:]])
