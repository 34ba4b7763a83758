"""Is a trained scene as good as its photos allow: the features, the poses and the exposure of each view."""
