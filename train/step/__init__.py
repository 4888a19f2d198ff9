"""One optimiser step: objective, loss, optimiser, engine, and validation."""
