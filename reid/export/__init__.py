"""A trained model as a file for another program; what that program leaves out is inside the graph."""
