"""The names of the layers of isolation, and users for jobs."""

BUBBLEWRAP = "bubblewrap"
NAMESPACES = "namespaces"
USER = "uid"
LANDLOCK = "landlock"
SECCOMP = "seccomp"

ALL_LAYERS = frozenset({BUBBLEWRAP, NAMESPACES, USER, LANDLOCK, SECCOMP})
"""Every layer that may be absent; resource limits always hold."""

HIDES_PROCESSES = frozenset({BUBBLEWRAP, NAMESPACES, USER, LANDLOCK})
"""Any of these keeps a job from reading another process's environment in /proc."""

FIRST_USER = 61184
USERS = 4096
"""Where the sandbox runs as root, each job gets a user id of its own from this range, which no account has."""


def level(layers: frozenset[str]) -> str:
    """The layers in force as one word, strongest first."""
    order = (BUBBLEWRAP, NAMESPACES, USER, LANDLOCK, SECCOMP)
    return "+".join([*(name for name in order if name in layers), "rlimits"])
