"""Times every operation beside its physical floor, its matmul and its peers on this machine.

    python -m bathyscope_kernels.bench [--device cuda] [--only topk_encode] [--quick]

Needs torch and triton only; peers take part where they are installed. `__main__` walks over the
operations (`cases`) and shapes (`shapes`); `measure` times the ways of one case in turns; `floors`
says what the hardware allows at best; `records` and `tables` keep and show the rows.
"""
