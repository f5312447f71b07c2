"""The lab: a study of methods x seeds x regimes on the generated world. Only `methods` knows which
method is which."""
