"""One reader a file: `load_dataset(name)` calls `load` of the module of that name."""
