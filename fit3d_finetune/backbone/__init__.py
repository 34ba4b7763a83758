"""Fine-tuned backbones as folders: saving, loading, model card, precision."""
