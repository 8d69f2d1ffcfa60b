"""The serving module: `python -m server --bundle DIR`."""
