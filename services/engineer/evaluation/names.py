"""Names of the local tasks, known without loading the harness."""

LOCAL_NAMES = ("mqar", "induction", "copying", "brackets", "code", "cloze")
ITEMS = 500
"""Questions of a task where the scale sets no limit."""
