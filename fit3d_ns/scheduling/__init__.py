"""Many scenes: each trained, measured and exported by a process of its own, on one machine or several."""
