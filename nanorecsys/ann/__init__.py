"""The nearest-neighbour chapter: indexes measured against exact search and the machine's limits.

`specs` is the table of indexes, `indexes` builds one, `exact` finds the true neighbours, `bench`
builds and searches indexes in child processes. Nothing here imports torch, which would bring a
second OpenMP runtime beside FAISS's.
"""
