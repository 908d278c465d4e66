"""Operations on the CPU in compiled C++: selection, gathers, the backward pass and Adam.

The source in `src/` is compiled once per machine with the compiler that is there (`build`); where
there is none, the torch operations beside this package do the same work more slowly.
"""
