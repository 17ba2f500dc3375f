"""Person re-identification with ranked list loss: composed by Hydra, tracked by MLflow."""
