"""Makes more folders than anybody can count."""

import os

number = 0
while True:
    os.mkdir(f"d{number}")
    number += 1
