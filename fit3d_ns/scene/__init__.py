"""A scene as data: Gaussians with features, the export format, rendering an export."""
