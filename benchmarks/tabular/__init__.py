"""Models of tables beside boosted trees,
on real tables: `python -m benchmarks.tabular`.
"""
