"""Modules that are copied to every exported package, with their imports rewritten."""
