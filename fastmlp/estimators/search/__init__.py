"""A search for scikit-learn: each candidate is fitted on each fold by one thread."""

from fastmlp.estimators.search.search_cv import MLPSearchCV

__all__ = ["MLPSearchCV"]
