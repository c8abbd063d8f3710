"""One net trained by several ranks: what they exchange, and what they agree on."""
