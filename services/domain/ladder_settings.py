"""A run's promotion, scale file and corpus from text settings.

The policy `stages` lists the stages above the search with overrides, as in ``explore,verify:seeds=3`` or
``tiny:tokens=1200000:seeds=5``. Budgets relative to the baseline are shares: ``0.1`` is ±10 %, ``+0.1`` at most 10 %
more, ``none`` no limit.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from services.domain.discovery import DiscoveryPolicy
from services.domain.promotion import Budget, Limit, PaperPromotion, PromotionPolicy, Stage, SuccessiveHalving

PROMOTIONS = ("none", "paper", "halving")
MAX_STAGES = 9
Policies = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Climb:
    """How candidates are promoted, if at all. ``ablations`` limits the analyst's requests."""

    promotion: PromotionPolicy | None
    stages: tuple[Stage, ...]
    discovery: DiscoveryPolicy
    ablations: int = 0


def climb_of(promotion: str, policies: Policies, scale: str, overrides: Mapping[str, str]) -> Climb:
    """The promotion of a run's settings. Raises ``ValueError`` naming an invalid policy."""
    if promotion and promotion not in PROMOTIONS:
        raise ValueError(f"promotion is {promotion!r}; choose one of {', '.join(PROMOTIONS)}")
    ablations = _whole(policies, "ablations", 0)
    if not 0 < _real(policies, "prune_from", 0.5) < 1:
        raise ValueError(f"policy prune_from must be between 0 and 1, not {policies['prune_from']!r}")
    if promotion in ("", "none"):
        return Climb(None, (), DiscoveryPolicy(), ablations)
    default = DiscoveryPolicy()
    stages = _stages(policies, scale, overrides, _whole(policies, "verify_seeds", default.seeds))
    discovery = DiscoveryPolicy(
        level=_real(policies, "level", default.level),
        seeds=stages[-1].seeds,
        worthwhile=_real(policies, "worthwhile", default.worthwhile),
    )
    return Climb(_promotion(promotion, policies), stages, discovery, ablations)


def _promotion(name: str, policies: Policies) -> PromotionPolicy | None:
    match = policies.get("match", "none")
    if match not in ("none", "width"):
        raise ValueError(f"policy match must be width or none, not {match!r}")
    budget = Budget(_limit(policies, "parameters"), _limit(policies, "flops"), match == "width")
    if name == "paper":
        usual = PaperPromotion()
        return PaperPromotion(_whole(policies, "block", usual.block), _whole(policies, "verify", usual.top), budget)
    if name == "halving":
        return SuccessiveHalving(_whole(policies, "eta", SuccessiveHalving().eta), budget)
    return None


def _stages(policies: Policies, scale: str, overrides: Mapping[str, str], seeds: int) -> tuple[Stage, ...]:
    text = str(policies.get("stages", scale))
    stages = tuple(_stage(part.strip(), scale, overrides, seeds) for part in text.split(",") if part.strip())
    if not 1 <= len(stages) <= MAX_STAGES:
        raise ValueError(f"policy stages must name 1 to {MAX_STAGES} stages, commas between, not {text!r}")
    return stages


def _stage(text: str, scale: str, overrides: Mapping[str, str], seeds: int) -> Stage:
    """A stage at the run's own scale inherits the run's overrides."""
    name, *parts = text.split(":")
    split = [part.partition("=") for part in parts]
    pairs = {field: value for field, _, value in split}
    if bad := next((field for field, value in pairs.items() if not value), None):
        raise ValueError(f"policy stages: write {bad!r} of stage {name} as NAME=VALUE")
    own = dict(overrides) if name == scale else {}
    if {"steps", "tokens"} & pairs.keys():
        own = {field: value for field, value in own.items() if field not in ("steps", "tokens")}
    count = _whole(pairs, "seeds", seeds)
    pairs.pop("seeds", None)
    return Stage(name, count, tuple(sorted((own | pairs).items())))


def _limit(policies: Policies, name: str) -> Limit | None:
    text = str(policies.get(name, "0.1")).strip()
    return None if text == "none" else Limit(_real({name: text}, name, 0.0), upwards=text.startswith("+"))


def _whole(policies: Policies, name: str, default: int) -> int:
    value = policies.get(name, default)
    try:
        return int(value)  # type: ignore[call-overload,no-any-return]
    except (TypeError, ValueError):
        raise ValueError(f"policy {name} must be a whole number, not {value!r}") from None


def _real(policies: Policies, name: str, default: float) -> float:
    value = policies.get(name, default)
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"policy {name} must be a number, not {value!r}") from None


SCALES = ("mini", "tiny", "explore", "verify", "final")
SCALE_FILE = ".toml"
HUB = "hub:"
BASE = "base"


def parse_scale_file(content: str, name: str) -> tuple[str, dict[str, str]]:
    """The scale that a file names as its `base`, and what the file changes of it. Raises ValueError naming the file."""
    try:
        values = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} is not TOML: {error}") from None
    base = values.pop(BASE, None)
    if base not in SCALES:
        raise ValueError(f'{name} has the base {base!r}; begin it with base = "NAME", one of {", ".join(SCALES)}')
    values.pop("name", None)
    return base, {field: _text(name, field, value) for field, value in values.items()}


def corpus_overrides(corpus: str) -> Mapping[str, str]:
    """The overrides for a corpus: hub:NAME or hub:NAME@CONFIG, else the path of a folder or file."""
    if not corpus.startswith(HUB):
        return {"corpus": "files", "dataset": corpus, "dataset_config": ""}
    dataset, _, config = corpus.removeprefix(HUB).partition("@")
    return {"corpus": "hub", "dataset": dataset, "dataset_config": config}


def _text(name: str, field: str, value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ",".join(str(item) for item in value)
        case str() | int() | float():
            return str(value)
        case _:
            raise ValueError(f"{name}: {field} must be a text, a number, true or false, or a list of texts")
