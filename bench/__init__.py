"""Benchmarks of smorm against what people use instead; docs/speed.md defines every figure.

Imported before anything that imports torch, because OpenMP reads these variables once, when it is
loaded. Spinning threads cost a factor of 4 on a shared machine, and would be counted as CPU time.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
