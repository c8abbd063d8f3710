"""Files of nets: safetensors, a net's state as their content, rules as JSON."""
