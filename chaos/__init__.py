"""Hostile and unlucky situations tried on the product: `python -m chaos` (docs/chaos.md)."""
