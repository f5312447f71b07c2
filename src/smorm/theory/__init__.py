"""The paper's theory, measured on a trained model (`smorm diagnose`), and advice drawn from it.
Sources: SMORM (arXiv 2507.07375), Theorems 1 and 2 and Lemma 1. Where a published statement does
not hold as written, docs/diagnose.md says what holds instead, and that is what is measured."""
