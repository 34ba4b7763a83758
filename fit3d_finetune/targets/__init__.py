"""What the backbone is fine-tuned towards: exports re-rendered on the patch grid."""
