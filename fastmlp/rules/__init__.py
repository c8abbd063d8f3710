"""What is computed: activations, losses, links, penalties, updates and their tables."""
