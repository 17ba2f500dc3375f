"""A trained model as a file for another program: one file a target."""
