"""Prompts are files: a version in the first line, then text with {placeholders}."""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from string import Template

from services.llm.port import Message


@dataclass(frozen=True)
class Prompt:
    """One prompt: `version` is recorded with every answer it led to."""

    version: str
    system: str
    user: Template

    def messages(self, **values: str) -> tuple[Message, ...]:
        """The messages with every placeholder filled. Raises KeyError naming one that is missing."""
        return Message("system", self.system), Message("user", self.user.substitute(values))


@lru_cache
def load_prompt(package: str, name: str) -> Prompt:
    """`prompts/<name>.md` of a service: "version: NAME-N", the system text, a line of ---, the user text.

    Read once. Raises ValueError for a file of another form.
    """
    text = (files(package) / "prompts" / f"{name}.md").read_text(encoding="utf-8")
    head, _, rest = text.partition("\n")
    system, divider, user = rest.partition("\n---\n")
    if not head.startswith("version: ") or not divider:
        raise ValueError(f"prompt {name} of {package} needs a version line, a system part, ---, and a user part")
    return Prompt(head.removeprefix("version: ").strip(), system.strip(), Template(user.strip()))
