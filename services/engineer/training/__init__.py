"""Training candidates in the sandbox, watched from outside: `host.train` is the way in."""
