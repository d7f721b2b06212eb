"""Prints a megabyte."""

for _ in range(1000):
    print("x" * 1000)
