"""How services think: the Mind port, the openai implementation, recorded answers, budgets, embedders.

Nothing is imported here: a service that only compares vectors needs neither the openai package nor its settings.
"""
