"""The loop of every training run: its steps, optimizer, processes, log, checkpoints, lock and signals."""
