"""Raises an error that has a thousand causes."""

error = ValueError("first")
for number in range(3000):
    error, cause = ValueError(number), error
    error.__cause__ = cause
raise error
