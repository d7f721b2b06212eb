"""Prints progress with colours and carriage returns, as many libraries do."""

for step in range(100):
    print(f"\r\x1b[32mstep {step}\x1b[0m", end="")
print()
