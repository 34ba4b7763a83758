"""What the machine and the environment have, and what they lack for fit3d (`fit3d-doctor`)."""
