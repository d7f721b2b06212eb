"""How services use language models: the `Mind` port, live and recorded implementations, budgets, embedders.

Prompts and the meaning of answers belong to the service that asks; the budget itself is kept by the store. Nothing is
imported here: a service that only compares vectors needs neither the openai package nor its settings.
"""
