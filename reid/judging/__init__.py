"""A model judged: embeddings, scores, other domains, thresholds."""
