"""EASE in closed form, and implicit-feedback matrix factorization by the `implicit` library."""

from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
from implicit.cpu.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

from nanorecsys.data import Interactions
from nanorecsys.evaluation import DotProduct, Scorer
from nanorecsys.training.baselines.matrices import by_recency, co_counts, user_item, with_fallback
from nanorecsys.training.errors import TrainingError


@dataclass(frozen=True)
class EASE:
    """score(u) = w(u) B, with B the best linear item-item model of the histories without diagonal

        P = (X' X + penalty I)^-1,   B = I - P diag(1 / diag P)

    (Steck 2019, Embarrassingly shallow autoencoders for sparse data, eq. 8). w(u) is u's row of X
    for recency 0, else `recency_weights`.

    With features F (n_items, n_features), X has the rows sqrt(content) F' below those of the users:
    items that share features count as items that share users (CEASE of Jeunen, Van Balen and
    Goethals 2020, Closed-form models for collaborative filtering with side-information, doi
    10.1145/3383313.3418480). An item without an event then has neighbours too.

    Args:
        penalty: L2 penalty, in users.
        recency: Power of the decay over a user's history; 0 is EASE as published.
        content: Users that items with equal features count as; 0 is EASE without content.
        max_gib: Memory that the dense matrices may take.
        features: The items' features, see `content_features`; None for EASE without content.
    """

    penalty: float = 300.0
    recency: float = 0.0
    content: float = 0.0
    max_gib: float = 4.0
    features: sparse.csr_array | None = field(default=None, repr=False, compare=False)

    def fit(self, known: Interactions, n_users: int, n_items: int) -> Scorer:
        """Solve for the smaller side of X: the cost is cubic in it.

        Raises:
            TrainingError: the dense matrices would take more than max_gib.
        """
        n_rows = n_users if self.features is None else n_users + self.features.shape[1]
        few_rows = n_rows <= n_items
        floats = n_rows * (n_rows + 3 * n_items) if few_rows else n_items * n_items
        gib = 4 * floats / 2**30
        if gib > self.max_gib:
            raise TrainingError(
                f"EASE on {n_users} users and {n_items} items takes {gib:.1f} GiB, "
                f"above {self.max_gib:g}",
                "Raise max_gib if the machine has the memory, or leave EASE out at this size.",
            )
        x = user_item(known, n_users, n_items)
        if self.features is not None:
            below = self.features.T * np.float32(np.sqrt(self.content))
            x = sparse.vstack([x, below], format="csr")
        weights = by_recency(known, n_users, n_items, self.recency)
        score = (_by_rows if few_rows else _by_items)(x, weights, self.penalty)
        return with_fallback(score, known, n_users, n_items)


def _by_items(x: sparse.csr_array, weights: sparse.csr_array, penalty: float) -> Scorer:
    """EASE by the (n_items, n_items) inverse."""
    n_items = x.shape[1]
    model = np.empty((n_items, n_items), np.float32)
    for rows, counts in co_counts(x):
        model[rows] = counts
    model[np.diag_indices(n_items)] += penalty
    model = scipy.linalg.inv(model, overwrite_a=True, assume_a="pos")
    model /= -np.diag(model).copy()
    np.fill_diagonal(model, 0)
    return lambda users: weights[users] @ model


def _by_rows(x: sparse.csr_array, weights: sparse.csr_array, penalty: float) -> Scorer:
    """EASE by the (n_rows, n_rows) inverse, exact by the Woodbury identity:

    penalty P = I - X' M with M = (X X' + penalty I)^-1 X, so that with s = diag(X' M), elementwise
    in the items, w B = (w X' M - s w) / (1 - s).
    """
    gram = (x @ x.T).toarray()
    gram[np.diag_indices_from(gram)] += penalty
    factor = scipy.linalg.cho_factor(gram, overwrite_a=True)
    m = scipy.linalg.cho_solve(factor, x.toarray(), overwrite_b=True)
    s = x.multiply(m).sum(axis=0)
    m /= 1 - s  # (n_rows, n_items)
    own = s / (1 - s)

    def score(users: np.ndarray) -> np.ndarray:
        w = weights[users]
        return (w @ x.T).toarray() @ m - w.multiply(own).toarray()

    return score


@dataclass(frozen=True)
class ImplicitALS:
    """score(u, i) = p(u) q(i), with confidence alpha in known pairs against 1 in all others

    (Hu, Koren and Volinsky 2008, Collaborative filtering for implicit feedback datasets, eq. 3, by
    the `implicit` library). The item vectors are fitted on unweighted histories. The user vectors
    are then solved for again (their eq. 4) with confidence alpha times `recency_weights`.

    Args:
        factors: Size of the vectors.
        regularization: L2 penalty.
        alpha: Confidence in a known pair.
        iterations: Sweeps over users and items.
        recency: Power of the decay over a user's history; 0 for none.
    """

    factors: int = 64
    regularization: float = 0.1
    alpha: float = 10.0
    iterations: int = 15
    recency: float = 0.0

    def fit(self, known: Interactions, n_users: int, n_items: int) -> Scorer:
        weights = by_recency(known, n_users, n_items, self.recency)
        # BLAS threads within the library's own thread slow it tenfold, and it warns of them.
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularization,
                alpha=self.alpha,
                iterations=self.iterations,
                num_threads=1,
                random_state=0,
            )
            model.fit(sparse.csr_matrix(user_item(known, n_users, n_items)), show_progress=False)
            users = model.recalculate_user(np.arange(n_users), sparse.csr_matrix(weights))
        return with_fallback(DotProduct(users, model.item_factors), known, n_users, n_items)
