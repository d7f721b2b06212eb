"""The probes: one function in a file of its own, each saying what it tests and what it cannot see."""
