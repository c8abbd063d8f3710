"""A fit's buffers and calls: of all its rows, or of one rank's."""
