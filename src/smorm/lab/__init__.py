"""The lab: a study of methods x seeds x regimes on the generated world (`smorm.world`).

`methods` names what is trained and what is compared, `artifacts` finds or makes anything by a
fingerprint, `world_artifacts` makes policies, data, pools, models and scores with it, `measure`
turns scores into results, and `run` does all of it in several processes. Nothing below `methods`
knows which method is which.
"""
