"""Studies in the lab: methods x seeds x regimes, trained, pushed by best-of-n and compared.

`methods` names what is trained and what is compared, `store` makes and keeps the parts
(policies, data, pools, models, scores), `measure` turns scores into results, `run` does all of it
with several processes. Nothing below `methods` knows which method is which.
"""
