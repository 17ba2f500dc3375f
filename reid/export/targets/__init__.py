"""The programs that a model can be exported for: one a file, each with its `TARGET`."""
