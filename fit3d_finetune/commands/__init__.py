"""Command lines: fit3d-finetune and fit3d-probe."""
