"""The same operations as Triton kernels, for CUDA devices from sm_90 on.

Flow: each module holds some kernels and the function that launches them; `runtime` says whether
Triton is there and whether its interpreter runs the kernels on the CPU (TRITON_INTERPRET=1), and
keeps the list of kernels that `bathyscope_kernels.aot` compiles without a GPU.
"""
