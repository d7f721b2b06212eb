"""One architecture as a Python package of its own: `python -m services.engineer.export`, for the command line."""
