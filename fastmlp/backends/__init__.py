"""The only kernels. Each backend is imported when a net first needs it."""
