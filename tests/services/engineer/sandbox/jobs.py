"""Guest jobs of the sandbox's own tests."""

from services.engineer.sandbox.channel import Channel


def echo(channel: Channel) -> None:
    """Send back what comes, until the engineer hangs up."""
    while True:
        message = channel.receive()
        channel.send(message.kind, message.header, message.arrays)
