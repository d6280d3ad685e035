"""How good a classifier is, how sure that is, and how two classifiers differ.

`matrix` has the scores of a confusion matrix and their intervals, `runs` reads what trainings left
behind, `comparison` sets runs beside each other and beside the paper, `probabilities` measures
calibration, `sound` has the folds and the sound protocol, `spread` the scatter over seeds. No
TensorFlow here; parts of scipy and scikit-learn, slow to import, come when they are first needed
(``scipy.stats`` when it is named).
"""

from lib.evaluation.comparison import (
    align,
    comparable_pairs,
    compare_pairs,
    compare_with_paper,
    holm,
    mcnemar,
    mcnemar_outcomes,
    paired_bootstrap,
    paper_column,
)
from lib.evaluation.matrix import (
    CELLS,
    SCORES,
    at_frequencies,
    bootstrap,
    cell_intervals,
    class_index,
    class_report,
    confusion,
    count_matrices,
    decide,
    matrix_scores,
    normalise,
    resample,
    score_intervals,
    scores,
    wilson,
)
from lib.evaluation.probabilities import (
    apply_temperature,
    calibrate,
    calibration,
    cross_fitted_temperature,
    fit_temperature,
    reliability,
)
from lib.evaluation.runs import (
    Run,
    fold_groups,
    folds_name,
    option,
    pool,
    read_run,
)
from lib.evaluation.sound import (
    cross_validate,
    cross_validation_summary,
    epoch_optimism,
    fold_optimism,
    protocols,
    repeated_folds,
    sound_split,
    unseen_recall,
)
from lib.evaluation.spread import (
    choose_size,
    seed_sampling,
    seed_spread,
    size_spread,
)

__all__ = [
    "CELLS",
    "SCORES",
    "Run",
    "align",
    "apply_temperature",
    "at_frequencies",
    "bootstrap",
    "calibrate",
    "calibration",
    "cell_intervals",
    "choose_size",
    "class_index",
    "class_report",
    "comparable_pairs",
    "compare_pairs",
    "compare_with_paper",
    "confusion",
    "count_matrices",
    "cross_fitted_temperature",
    "cross_validate",
    "cross_validation_summary",
    "decide",
    "epoch_optimism",
    "fit_temperature",
    "fold_groups",
    "fold_optimism",
    "folds_name",
    "holm",
    "matrix_scores",
    "mcnemar",
    "mcnemar_outcomes",
    "normalise",
    "option",
    "paired_bootstrap",
    "paper_column",
    "pool",
    "protocols",
    "read_run",
    "reliability",
    "repeated_folds",
    "resample",
    "score_intervals",
    "scores",
    "seed_sampling",
    "seed_spread",
    "size_spread",
    "sound_split",
    "unseen_recall",
    "wilson",
]
