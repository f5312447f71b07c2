"""The HTTP server: rewards for reinforcement learning, every score as `smorm score` gives it.

worker.py    a process with the weights; batcher.py   what waits becomes batches
served.py    a named reward: requests to jobs, rows to answers
app.py       our own routes; compatible.py   those of other servers; guard.py   tokens and limits
run.py       the server from start to drain"""
