"""What nerfstudio's viewer shows of the features, and the controls that go with it."""
