"""What a run says: log, meters, curves, verdict, wandb."""
