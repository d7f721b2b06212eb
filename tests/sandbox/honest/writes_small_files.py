"""Keeps a cache of small files in its folder, and removes it."""

import os
import shutil
from pathlib import Path

for number in range(50):
    Path(f"cache/{number % 5}/{number}").mkdir(parents=True)
    Path(f"cache/{number % 5}/{number}/entry").write_bytes(bytes(4096))
os.rename("cache", "other")
shutil.rmtree("other")
