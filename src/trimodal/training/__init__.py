"""Training: objectives by task, batches with a loss of their own, distances from a teacher, and the engine for all of them."""
