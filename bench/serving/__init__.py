"""The server under load; `python -m bench.serving` measures it, docs/serving.md shows the figures.

load.py       a process that sends requests, and what it saw
traffic.py    conversations and their requests, route by route
servers.py    servers as processes: their CPU time, their memory
plain_server.py, litserve_server.py   what people use instead
steady.py, shared.py, prefixes.py, overload.py   the measurements
page.py       results/serving/README.md"""
