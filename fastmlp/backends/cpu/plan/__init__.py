"""The data of kernels: records, packed parameters, workspace, partition."""
