"""Which BLAS multiplies matrices on the CPU of a Linux machine, and with how many threads.

MLX's wheel for Linux is linked to the reference BLAS, some thirty times slower than the same core
can do. Here MLX's calls are led to a better one. On macOS (Accelerate) and on a GPU nothing is
changed.

    library    finds and opens a library, and knows its version, kernels and threads
    elf        where MLX keeps the pointer through which it calls
    redirect   writes that pointer, after checks
    session    what this process uses, and with how many threads
    threads    how many are good for a model on this machine
    measure    the rate, for `grpo-sweep doctor`
"""
