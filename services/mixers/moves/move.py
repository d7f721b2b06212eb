"""Moves: named changes of a description, with reason and source; and their building blocks."""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from services.mixers.description import MAX_PATHS, Mixer, Path, PathKind, branches

Change = Callable[[Mixer], Mixer | None]
Values = Mapping[str, object]


@dataclass(frozen=True)
class Source:
    """A publication. `reference` is an arXiv identifier such as '2406.06484', or a URL."""

    title: str
    reference: str
    year: int

    def __str__(self) -> str:
        source = self.reference if "/" in self.reference else f"arXiv:{self.reference}"
        return f"{self.title}, {source}, {self.year}"


@dataclass(frozen=True)
class Move:
    """One architectural move.

    `why` completes the sentence "<what> because …"; `adds` and `removes` are names of the component vocabulary;
    `word` is the move's part of a child's name; `source` is None for ideas without a single paper.
    """

    name: str
    what: str
    why: str
    word: str
    change: Change
    adds: tuple[str, ...] = ()
    source: Source | None = None
    removes: tuple[str, ...] = ()

    def apply(self, mixer: Mixer) -> Mixer | None:
        """The changed mixer in canonical form; None if the move does not apply or has no effect."""
        try:
            child = self.change(mixer)
            child = child and child.canonical()
        except ValidationError:
            return None
        return None if child is None or child.structure() == mixer.structure() else child


_TEXT = re.compile(r"(\w+) \((\w+)\)(?:: (.+))?\n    (.+)\n    because (.+)\n    (.+)\n")


def moves(texts: str, changes: Mapping[str, Change]) -> tuple[Move, ...]:
    """The moves of these texts, in order; `changes` by name are those of moves that do more than to set fields.

    A text has four lines: the name, the word, and perhaps the fields that the move sets; what; because why; and,
    between semicolons, the components that the move adds (+) and removes (-), and the name of its source in `Papers`
    (by). Raises ValueError for a text of another form, and for a move that lacks a text or a change.
    """
    rows = _TEXT.findall(texts)
    without = {name for name, _, fields, *_ in rows if not fields} ^ changes.keys()
    if lacking := [*sorted(without), *_TEXT.sub("", texts).split()]:
        raise ValueError(f"each move needs a text of four lines and a change: {', '.join(lacking)}")
    result = []
    for name, word, fields, what, why, facts in rows:
        by_sign = dict(fact.split(" ", 1) for fact in facts.split("; "))
        adds, removes = (tuple(by_sign[sign].split(", ")) if sign in by_sign else () for sign in "+-")
        source: Source | None = getattr(Papers, by_sign["by"]) if "by" in by_sign else None
        change = _set_fields(fields) if fields else changes[name]
        result.append(Move(name, what, why, word, change, adds, source, removes))
    return tuple(result)


def _set_fields(text: str) -> Change:
    """The change that a text such as "memory.decay=mamba, memory.tied=false" describes."""
    parts: dict[str, dict[str, object]] = defaultdict(dict)
    for part, field, value in re.findall(r"(\w+)\.(\w+)=(\w*)", text):
        parts[part][field] = value
    return setting(**parts)


def setting(**parts: Values) -> Change:
    """A change that sets fields of parts: `setting(memory={"decay": "mamba"})`."""
    return lambda mixer: changed(mixer, **parts)


def where(condition: Callable[[Mixer], bool], change: Change) -> Change:
    """The change if the condition is true; otherwise it does not apply."""
    return lambda mixer: change(mixer) if condition(mixer) else None


def changed(mixer: Mixer, **parts: Values) -> Mixer:
    """A copy with fields of its parts set. Raises ValidationError for a contradictory result."""
    tree = mixer.model_dump()
    for part, values in parts.items():
        tree[part] = {**tree[part], **values}
    return Mixer.model_validate(tree)


def with_paths(mixer: Mixer, paths: tuple[Path, ...]) -> Mixer:
    """A copy with other paths; a hierarchical fusion becomes a softmax if fewer than three branches remain."""
    tree = mixer.model_dump() | {"paths": [path.model_dump() for path in paths]}
    if len(paths) + (mixer.memory.rule != "none") < 3 and mixer.fusion.kind == "hierarchical":
        tree["fusion"] = {**tree["fusion"], "kind": "softmax"}
    return Mixer.model_validate(tree)


def add_path(kind: PathKind, size: int = 0) -> Change:
    """A change that adds a path; the fusion of a first path becomes a softmax, which can weight it."""

    def change(mixer: Mixer) -> Mixer | None:
        if any(path.kind == kind for path in mixer.paths) or len(mixer.paths) == MAX_PATHS:
            return None
        child = with_paths(mixer, (*mixer.paths, Path(kind=kind, size=size)))
        first = branches(mixer) < 2 and child.fusion.kind == "sum"
        return changed(child, fusion={"kind": "softmax"}) if first else child

    return change


def drop_path(kinds: frozenset[str]) -> Change:
    """A change that removes the paths of the given kinds."""

    def change(mixer: Mixer) -> Mixer | None:
        paths = tuple(path for path in mixer.paths if path.kind not in kinds)
        return None if len(paths) == len(mixer.paths) else with_paths(mixer, paths)

    return change


class Papers:
    """The sources of the moves."""

    DELTA_NET = Source("Parallelizing Linear Transformers with the Delta Rule", "2406.06484", 2024)
    GATED_DELTA_NET_2 = Source("Gated DeltaNet-2", "2605.22791", 2026)
    KIMI_LINEAR = Source("Kimi Linear", "2510.26692", 2025)
    LONGHORN = Source("Longhorn: State Space Models are Amortized Online Learners", "2407.14207", 2024)
    COMBA = Source("Comba: Improving Bilinear RNNs with Closed-loop Control", "2506.02475", 2025)
    TITANS = Source("Titans: Learning to Memorize at Test Time", "2501.00663", 2024)
    MIXTURE_OF_MEMORIES = Source("MoM: Linear Sequence Modeling with Mixture-of-Memories", "2502.13685", 2025)
    CANON = Source("Physics of Language Models: Part 4.1", "2512.17351", 2025)
    GATED_DELTA_NET = Source("Gated Delta Networks", "2412.06464", 2024)
    DELTA_PRODUCT = Source("DeltaProduct", "2502.10297", 2025)
    NEGATIVE_EIGENVALUES = Source("Unlocking State-Tracking Through Negative Eigenvalues", "2411.12537", 2024)
    GLA = Source("Gated Linear Attention Transformers", "2312.06635", 2023)
    RETNET = Source("Retentive Network", "2307.08621", 2023)
    MAMBA = Source("Mamba", "2312.00752", 2023)
    MAMBA2 = Source("Transformers are SSMs", "2405.21060", 2024)
    MESA_NET = Source("MesaNet", "2506.05233", 2025)
    KALMA_NET = Source("Gated KalmaNet", "2511.21016", 2025)
    PRECONDITIONED = Source("Preconditioned DeltaNet", "2604.21100", 2026)
    CYFA = Source("CyFA: Linear Sequence Modeling with Relative-Time-Partitioned Memory", "2609.36259", 2026)
    RAVEN = Source("Raven: High-Recall Sequence Modeling", "https://github.com/goombalab/raven", 2026)
    PARALLAX = Source("Parallax: Parameterized Local Linear Attention", "2605.29157", 2026)
    PATH = Source("PaTH Attention", "2505.16381", 2025)
    LOG_LINEAR = Source("Log-Linear Attention", "2506.04761", 2025)
    MAMBA3 = Source("Mamba-3", "2603.15569", 2026)
    HGRN2 = Source("HGRN2", "2404.07904", 2024)
    RWKV = Source("RWKV", "2305.13048", 2023)
    EAGLE_FINCH = Source("Eagle and Finch", "2404.05892", 2024)
    BASED = Source("Based", "2402.18668", 2024)
    VALUE_RESIDUAL = Source("Value Residual Learning", "2410.17897", 2024)
    FORGETTING = Source("Forgetting Transformer", "2503.02130", 2025)
    LINEAR_ATTENTION = Source("Transformers are RNNs", "2006.16236", 2020)
    HEDGEHOG = Source("The Hedgehog & the Porcupine", "2402.04347", 2024)
    ROFORMER = Source("RoFormer", "2104.09864", 2021)
    TALKING_HEADS = Source("Talking-Heads Attention", "2003.02436", 2020)
    MULTI_QUERY = Source("Fast Transformer Decoding: One Write-Head is All You Need", "1911.02150", 2019)
    TRANSNORMER = Source("The Devil in Linear Transformer", "2210.10340", 2022)
    PRIMER = Source("Primer", "2109.08668", 2021)
    MEGA = Source("Mega: Moving Average Equipped Gated Attention", "2209.10655", 2022)
    QK_NORM = Source("Query-Key Normalization for Transformers", "2010.04245", 2020)
    WAVENET = Source("WaveNet", "1609.03499", 2016)
    ASI_ARCH = Source("AlphaGo Moment for Model Architecture Discovery", "2507.18074", 2025)


_GROUPS: tuple[tuple[str, ...], ...] = (("inputs",), ("features", "memory"), ("paths", "fusion"), ("output",))


def cross(first: Mixer, second: Mixer, rng: random.Random) -> Mixer | None:
    """`first` with one or two groups of parts of `second`; None if no valid new child was found.

    Features are exchanged together with the memory, and paths with their fusion, since they constrain each other.
    """
    for _ in range(8):
        groups = rng.sample(_GROUPS, k=rng.choice((1, 2)))
        fields = {name: getattr(second, name) for group in groups for name in group}
        try:
            child = Mixer.model_validate(first.model_copy(update=fields).model_dump()).canonical()
        except ValidationError:
            continue
        if child.structure() not in {first.structure(), second.structure()}:
            return child
    return None
