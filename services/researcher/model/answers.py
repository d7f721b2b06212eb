"""What a language model is asked to answer when it proposes."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.llm.port import Block


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)


class IdeaAnswer(_Answer):
    """One idea and where it came from (table 3 of the paper)."""

    text: str = Field(min_length=3, max_length=600)
    origin: Literal["cognition", "analysis", "original"]
    source: str = ""


class EditAnswer(_Answer):
    """One replacement in the parent's program; its white space counts."""

    model_config = ConfigDict(str_strip_whitespace=False)

    search: str = Field(min_length=1, description="occurs exactly once in the parent's program")
    replace: str


class ProposalAnswer(_Answer):
    """A proposal: the program whole, or as edits of the parent's."""

    name: str = Field(min_length=3, max_length=80, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    motivation: str = Field(min_length=40, max_length=6000)
    components: list[str] = Field(default_factory=list, max_length=20)
    ideas: list[IdeaAnswer] = Field(default_factory=list, max_length=10)
    edits: list[EditAnswer] = Field(default_factory=list, max_length=40)
    program: Annotated[str, Block("python")] = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> "ProposalAnswer":
        if bool(self.program.strip()) == bool(self.edits):
            raise ValueError("give either the whole program or edits of the parent's, and not both")
        return self


class SummaryAnswer(_Answer):
    """A summary, never stored."""

    summary: str = Field(min_length=10, max_length=2000)


class NoveltyAnswer(_Answer):
    """Whether a proposal repeats something."""

    repeat: bool
    candidate: str = ""
    reason: str = Field(min_length=3, max_length=600)


def applied(edits: list[EditAnswer], program: str) -> str:
    """The program after all edits. Raises ValueError naming the edit whose text is not there exactly once."""
    for place, edit in enumerate(edits, 1):
        count = program.count(edit.search)
        if count != 1:
            raise ValueError(f"edit {place}: its search text occurs {count} times in the program, not once")
        program = program.replace(edit.search, edit.replace)
    return program
