"""Logs for tests of the store."""

import pytest

from tests.store.archive_stories import Story


@pytest.fixture
def finished() -> Story:
    """A whole run: two baselines and six proposals, one of which is rejected in the end."""
    story = Story()
    story.start()
    return story.finish()
