"""What trainers leave in folders, read: where runs lie, how far they came, which adapters they saved, and from what."""
