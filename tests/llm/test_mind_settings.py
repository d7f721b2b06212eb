"""Settings of the mind: the example is valid, mistakes are told in one sentence, secrets stay out."""

from pathlib import Path

import pytest

from services.chassis.errors import SettingsError
from services.llm.port import Role
from services.llm.settings import load_mind

EXAMPLE = Path(__file__).parents[2] / "deploy" / "mind.example.toml"
KEY = {"OPENAI_API_KEY": "very-private-key"}


def write(tmp_path: Path, old: str, new: str) -> dict[str, str]:
    text = EXAMPLE.read_text("utf-8")
    assert old in text
    path = tmp_path / "mind.toml"
    path.write_text(text.replace(old, new), "utf-8")
    return {**KEY, "ASI_MIND_FILE": str(path)}


def test_the_example_is_valid_and_a_hybrid() -> None:
    """A stronger model proposes than the one that judges."""
    settings = load_mind({**KEY, "ASI_MIND_FILE": str(EXAMPLE)})

    assert settings.roles[Role.PROPOSE].models[0] == "strong"
    assert settings.roles[Role.PROPOSE].choice == "bandit"
    assert settings.roles[Role.SCORE].models == ("cheap",)
    assert settings.models["cheapest"].price is not None


def test_three_variables_are_enough() -> None:
    """One model in every role."""
    settings = load_mind({**KEY, "OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "ASI_MODEL": "some-model"})

    assert {settings.models[role.models[0]].name for role in settings.roles.values()} == {"some-model"}
    assert settings.addresses == {"main": "http://127.0.0.1:1/v1"}


def test_a_local_endpoint_needs_no_key() -> None:
    """Local servers take none."""
    assert (
        load_mind({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "ASI_MODEL": "m"}).keys["main"].get_secret_value() == ""
    )


def test_settings_never_show_a_key() -> None:
    """Neither printed nor written."""
    settings = load_mind({**KEY, "ASI_MODEL": "m"})

    assert "very-private-key" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("concurrency = 16", "concurency = 16", r"endpoints\.main\.concurency is not a setting"),
        (
            "total_seconds = 1800",
            "total_seconds = 500",
            r"total_seconds is 500, less than two requests of endpoints\.main\.timeout_seconds \(300\)",
        ),
        ("concurrency = 16", "concurrency = 0", r"endpoints\.main\.concurrency is invalid"),
        ("temperature = 0.8", "temperature = nan", r"roles\.score\.temperature is invalid"),
        ("price_prompt = 0.4", "", r"both price_prompt and price_completion"),
        ('models = ["cheapest", "cheap"]', 'models = ["gone"]', r"roles\.extract\.models names 'gone'"),
        ('endpoint = "main"\nname = "o3"', 'endpoint = "x"\nname = "o3"', r"models\.strong\.endpoint names 'x'"),
        ("[roles.extract]", "[roles.extrakt]", r"roles\.extrakt is invalid: Input should be 'propose',"),
        ("[roles.extract]", "[other]", "other is not a setting"),
        ('base_url_env = "OPENAI_BASE_URL"', 'base_url_env = "MINE"', "MINE is not set"),
        ("[retry]", "[keys]\nmain = 'x'\n[retry]", "keys is not a key of this file"),
        ("[retry]", "[retry", "is not TOML"),
    ],
)
def test_an_invalid_setting_is_named_in_one_message(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Before anything is asked."""
    with pytest.raises(SettingsError, match=message) as caught:
        load_mind(write(tmp_path, old, new))

    assert "\n" not in str(caught.value).rstrip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "models is missing."),
        ("models = 3", "models is 3: write it as a section, [models]."),
        ("[models]\na = 3", "models.a is 3: write it as a section, [models.a]."),
    ],
)
def test_the_form_of_a_file_is_explained(text: str, message: str, tmp_path: Path) -> None:
    """In the words of the file, not of our types."""
    (tmp_path / "mind.toml").write_text(text)
    with pytest.raises(SettingsError) as raised:
        load_mind({"ASI_MIND_FILE": str(tmp_path / "mind.toml")})

    assert str(raised.value) == f"{tmp_path}/mind.toml: {message}"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "ASI_MODEL is not set"),
        ({"ASI_MODEL": "m"}, "OPENAI_API_KEY is not set"),
        ({**KEY, "ASI_MODEL": "m", "OPENAI_BASE_URL": "example.org"}, "must begin with http"),
        ({"ASI_MIND_FILE": "/nowhere/mind.toml"}, "cannot be read"),
    ],
)
def test_a_missing_variable_is_named(environment: dict[str, str], message: str) -> None:
    """With the fix."""
    with pytest.raises(SettingsError, match=message):
        load_mind(environment)
