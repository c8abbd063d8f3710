"""The team of threads, its workers and their mailboxes, and how many there may be."""
