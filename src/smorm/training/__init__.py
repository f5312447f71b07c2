"""Training: one loop, any objective."""
