"""Attention kernels on CUDA."""
