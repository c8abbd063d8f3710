"""Rules: activations, losses, links, penalties,
updates, optimizers, schedules, initializers.
"""
