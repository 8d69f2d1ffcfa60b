"""The base of every room: errors, atomic files, processor, memory, environment and BLAS."""
