"""Experiments of the project: what is run, how it is measured, and what is written to `results/`.

They use the product as any user would (recipes, training, suites, reports) and are no part of the
installed package."""
