"""What the kernels read: records, packed parameters, workspace, partition."""
