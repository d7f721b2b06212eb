"""The services and the code that they share."""

import os

# Before anything imports grpc: what goes wrong there comes back as a status, the library need not print it as well.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Before anything imports numpy: its arrays are small here, and a second thread would only spin while it waits for them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# One that is set but empty, as scripts and compose files pass what is not set, counts as unset wherever it is read.
for _name in [name for name, value in os.environ.items() if name.startswith("ASI_") and not value.strip()]:
    del os.environ[_name]

__version__ = "0.1.0"
