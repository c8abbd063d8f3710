"""A search for scikit-learn: every candidate and fold a fit of its own, one on each core."""

from fastmlp.estimators.search.search_cv import MLPSearchCV

__all__ = ["MLPSearchCV"]
