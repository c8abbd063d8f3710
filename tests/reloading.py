"""Models that have been through a file."""

from pathlib import Path
from typing import Any

import fastmlp


def reloaded(model: Any, path: Path, *, training: bool = False, **options: Any) -> Any:
    """Save a model, and return what is loaded from there, by these options."""
    fastmlp.save(model, path, include_training_state=training)
    return fastmlp.load(path, **options)
