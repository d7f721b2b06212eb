"""The typed description of a mixer: identity, JSON, rules."""

import pytest
from pydantic import ValidationError

from services.domain.components import VOCABULARY
from services.mixers.components import components_of
from services.mixers.description import CATALOGUE, Features, Fusion, Memory, Mixer, Path
from tests.researcher.compositions import composition


def test_baselines_are_described_by_the_names_of_the_zoo() -> None:
    """A parent that is a baseline must find its description by name."""
    expected = {
        "delta_net",
        "gated_delta_net",
        "gla",
        "mamba2",
        "retnet",
        "linear_attention",
        "conv_only",
        "delta_net_value_skip",
    }

    assert set(CATALOGUE) == expected
    assert len({mixer.structure() for mixer in CATALOGUE.values()}) == len(expected)


@pytest.mark.parametrize("seed", range(20))
def test_a_description_survives_json(seed: int) -> None:
    """The archive keeps descriptions as JSON, and children are made from what it returns."""
    mixer = composition(seed)

    assert Mixer.model_validate_json(mixer.model_dump_json()) == mixer


@pytest.mark.parametrize("seed", range(20))
def test_normalising_is_idempotent(seed: int) -> None:
    """Equal architectures must have one structure, whichever way they were reached."""
    mixer = composition(seed)

    assert mixer.canonical().canonical() == mixer.canonical()
    assert mixer.canonical().structure() == mixer.structure()


def test_fields_without_effect_do_not_change_the_structure() -> None:
    """A gate over a single path computes nothing, so it must not pass for a new architecture."""
    idle = Mixer(fusion=Fusion(kind="softmax", floor=True))

    assert idle.structure() == Mixer().structure()


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"features": Features(norm="none")}, "features.norm"),
        ({"memory": Memory(rule="none")}, "paths"),
        ({"memory": Memory(rule="linear", write="double")}, "memory.write"),
        ({"memory": Memory(tied=True)}, "memory.tied"),
        ({"paths": (Path(kind="window"),)}, "paths"),
        ({"fusion": Fusion(kind="hierarchical")}, "fusion.kind"),
    ],
)
def test_a_contradiction_is_refused_by_the_name_of_its_field(parts: dict[str, object], field: str) -> None:
    """A move that makes nonsense must find out before a program is rendered."""
    with pytest.raises(ValidationError, match=field):
        Mixer.model_validate(parts)


def test_unknown_fields_are_refused() -> None:
    """A description of another version must not be read as something it is not."""
    with pytest.raises(ValidationError, match="surprise"):
        Mixer.model_validate_json('{"surprise": 1}')


@pytest.mark.parametrize("seed", range(20))
def test_components_are_words_of_the_vocabulary(seed: int) -> None:
    """Figure 7 counts components by these names."""
    components = components_of(composition(seed))

    assert components
    assert all(VOCABULARY.normalise(name) == name for name in components)
