"""One net trained by several ranks: their exchanges, and the settings that they agree on."""
