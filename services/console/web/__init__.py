"""The live page: read-only, from the archive alone, without any external asset."""
