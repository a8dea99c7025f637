"""The learner: holds the weights that change and changes them."""
