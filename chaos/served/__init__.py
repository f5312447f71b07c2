"""Trials of `smorm serve` as a real process.

process.py   the server's process, and what it leaves
traffic.py   requests whose right scores are known, from threads
rewards.py   a reward that fails as its items say
fuzz.py, faults.py, drains.py, safety.py   one class of trials each"""
