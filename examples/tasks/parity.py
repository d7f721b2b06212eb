"""The questions of parity.yaml: is the number of ones in a row of bits even (0) or odd (1)?"""

from random import Random

from datasets import Dataset

QUESTIONS, BITS = 64, 12


def questions(**_: object) -> dict[str, Dataset]:
    """The same questions every time."""
    random = Random(1)
    rows = []
    for _number in range(QUESTIONS):
        bits = [random.randint(0, 1) for _place in range(BITS)]
        rows.append({"context": "".join(map(str, bits)) + "=", "answer": sum(bits) % 2})
    return {"test": Dataset.from_list(rows)}
