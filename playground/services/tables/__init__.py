"""Rows of datasets, whatever they are kept in: a reader for each kind of file, and one for the hub."""
