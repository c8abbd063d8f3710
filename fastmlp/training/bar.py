"""The progress bar of a fit, and the numbers in it."""

from typing import Any

from fastmlp.training.history import History


def new_bar(epochs: int, done: int, who: str) -> Any:
    """Return a tqdm bar over so many epochs.

    Raises
    ------
    ImportError
        If tqdm is missing.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            f"{who}: progress=True needs tqdm: pip install 'fastmlp[progress]'"
        ) from error
    return tqdm(total=epochs, initial=done, unit="epoch")


def shown(history: History) -> dict[str, str]:
    """Return the last losses and metrics, as the bar shows them."""
    losses = {"loss": history.loss, "validation_loss": history.validation_loss}
    series = {**losses, **history.metrics}
    return {name: f"{values[-1]:.4g}" for name, values in series.items() if values}
