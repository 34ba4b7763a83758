"""Fine-tuned backbones for others: as files of other runtimes, merged, and published on a hub."""
