"""Sources of rows: blocks and streams, read into buffers beside the training."""
