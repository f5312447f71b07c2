"""Kernels of the forest's one attention rule (see `smorm.trees.forest`)."""
