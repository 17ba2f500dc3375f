"""The command `python -m reid.runs`: tracked runs selected, shown, compared and deleted."""
