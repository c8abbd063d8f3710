"""When it is computed: the loop over epochs, its history and its checkpoints."""
