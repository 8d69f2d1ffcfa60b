"""What all others may use: errors, atomic files, processor, memory, environment and BLAS."""
