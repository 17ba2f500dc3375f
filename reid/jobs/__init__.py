"""What every Hydra command shares: compose, refuse in words, launch, the frame of one job, the console."""
