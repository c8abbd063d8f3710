"""The translator, and the objects that LLVM makes of its modules."""
