"""Policy optimisation against a proxy reward, traced against a gold."""
