"""Models of the command train: a net of plain columns, and an ensemble trained on files."""
