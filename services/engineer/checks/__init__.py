"""Decides whether a program may be trained: a static screen, then probes in the sandbox.

The entry point is `host.check`, which is not imported here because the child imports this package too.
"""
