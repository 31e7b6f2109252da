"""The contenders, a module for each library.

WRITE: form -> function of (source, folder) that writes the stories in that form.
LOAD: contender -> function of (source, folder, workers) that gives an iterable of batches; each iteration is an epoch.
"""
