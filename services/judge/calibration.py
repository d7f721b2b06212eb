"""The minds of questions outside a run's way: they are paid from the run's ledger, but are no fact of a candidate."""

import os

from services.chassis.errors import NotPossible, SettingsError
from services.chassis.worker import Job
from services.judge.model.judge import ModelJudge
from services.judge.offline.judge import OfflineJudge
from services.judge.opinion import Judging
from services.llm.budget import BudgetLedger
from services.llm.openai_mind import OpenAIMind
from services.llm.port import OFFLINE, OPENAI, Mind


class Calibration:
    """Opens a mind without a journal when it is first asked for. Close it when the service ends."""

    def __init__(self, ledger: BudgetLedger) -> None:
        self._ledger = ledger
        self._openai: OpenAIMind | None = None

    def mind(self, name: str) -> Mind | None:
        """The mind called "openai"; None for "offline".

        Raises NotPossible for a replay, which cannot drift, and where the environment describes no endpoint.
        """
        if name in ("", OFFLINE):
            return None
        if name != OPENAI:
            raise NotPossible(f"mind is {name!r}, which answers from a record: calibrate a run whose mind is {OPENAI}")
        if self._openai is None:
            self._openai = self._opened()
        return self._openai

    async def judging(self, mind: str, job: Job | None = None) -> Judging:
        """Who judges for a run with this mind. Raises NotPossible as `mind` does."""
        del job
        thinking = self.mind(mind)
        return OfflineJudge() if thinking is None else ModelJudge(thinking)

    async def close(self) -> None:
        """Close all connections."""
        if self._openai is not None:
            await self._openai.close()

    def _opened(self) -> OpenAIMind:
        try:
            return OpenAIMind.from_environment(os.environ, self._ledger)
        except SettingsError as error:
            raise NotPossible(str(error)) from None
