"""`python -m benchmarks.tabular`;
the workers of `compare` import it by its own name.
"""

from benchmarks.tabular.compare import main

if __name__ == "__main__":
    main()
