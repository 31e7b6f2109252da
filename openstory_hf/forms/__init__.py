"""Forms that several releases come in: what lies between the files of a release (`raw`) and the parser of a dataset.

A module describes one form, reads it, and writes a synthetic one for the `fake()` of the datasets that come in it.
"""
