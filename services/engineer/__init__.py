"""Checks, trains and evaluates candidates' programs: the only service with torch.

A `child` module runs in a sandboxed child, and the `host` module beside it makes the decisions. The service's own
process computes with numpy: it imports torch only to look for a GPU. Confinement is in `services/sandbox`, fla on a CPU
in `services/fla_cpu`; fitness is computed by the judge.
"""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's progress bars would fill logs; ours are enabled explicitly
