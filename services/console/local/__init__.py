"""Everything on one machine: the broker and the services as processes of their own, started and drained together."""
