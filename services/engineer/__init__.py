"""Checks, trains and evaluates candidates' programs: the only service with torch.

What runs in a sandboxed child is a `guest` module; its `host` decides and avoids importing torch where it can. The
confinement itself is `services/sandbox`, fla on a CPU is `services/fla_cpu`; what a score is worth decides the judge.
"""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars would fill logs; ours ask for theirs themselves
