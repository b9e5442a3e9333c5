"""Find the batch sizes that fit into the memory of a GPU, and remember what ran out. This module imports nothing."""
