"""Recall of the cognition base's search on queries written as analyses phrase them."""
