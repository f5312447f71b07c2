"""Scoring: a loaded reward model, files scored line by line."""
