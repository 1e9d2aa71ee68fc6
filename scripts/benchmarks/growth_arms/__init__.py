"""Growth against its controls: the same data, epochs, batches, optimiser and accounting for every arm."""
