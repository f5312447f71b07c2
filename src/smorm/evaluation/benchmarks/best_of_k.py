"""Any file of judged responses: is a good response scored best?"""

from smorm.data.formats import Format
from smorm.evaluation.accuracy import ScoredItems, accuracies, expected_wins
from smorm.evaluation.benchmarks import Benchmark
from smorm.evaluation.benchmarks.rows import comparison
from smorm.evaluation.outcomes import Outcomes


def rule(items: ScoredItems) -> Outcomes:
    """`overall` is the mean over all items, ties shared; one number for each subset."""
    return accuracies(items, expected_wins, {})


FORMAT = Format(
    "candidates",
    comparison,
    "{prompt?, chosen, rejected, subset?}",
    signs=frozenset({"responses", "correct"}),
)
BEST_OF_K = Benchmark("best-of-k", "Best of k", FORMAT, rule, ("overall",))
