"""The nearest-neighbour chapter: indexes as data, measured against exact search and against the machine's limits.

`specs` is the table of indexes, `indexes` builds and searches one, `exact` says what it should have
found, `sweep` measures a table of them in processes of their own. Nothing here imports torch: with
FAISS it would bring a second OpenMP runtime.
"""
