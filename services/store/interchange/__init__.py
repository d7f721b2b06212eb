"""In and out: published archives, whole event logs, tables."""
