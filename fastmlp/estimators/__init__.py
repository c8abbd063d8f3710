"""The door to scikit-learn: its estimators, and a search."""
