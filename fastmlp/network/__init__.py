"""A net without kernels: its spec,
the layout of its parameters, and rules from their names.
"""
