"""What every room stands on: errors, whole files, the processor, memory, the environment and BLAS."""
