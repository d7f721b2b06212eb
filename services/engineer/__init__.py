"""The only place where candidates' programs are checked, trained and evaluated, and the only service with torch.

What runs in a sandboxed child is a `guest` module; its `host` decides and never imports torch where it need not.
"""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars would fill logs; ours ask for theirs themselves
