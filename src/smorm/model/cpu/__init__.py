"""Kernels on the CPU: attention, fused decoder layers, matrix products, memory."""
