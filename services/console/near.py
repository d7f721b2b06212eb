"""What was meant, perhaps: the known names nearest to one that is not."""

import difflib
from collections.abc import Iterable

MOST = 3


def near(word: str, known: Iterable[str]) -> str:
    """As the end of a sentence, as in "; did you mean delta_net or gated_delta_net?"; empty when nothing is near."""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), names, n=MOST, cutoff=0.6)
    return f"; did you mean {' or '.join(names[one] for one in found)}?" if found else ""
