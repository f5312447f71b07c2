"""Objectives: pure functions of tensors to (loss, metrics)."""
