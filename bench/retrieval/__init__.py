"""Recall of the cognition base's search on queries in the style of analyses."""
