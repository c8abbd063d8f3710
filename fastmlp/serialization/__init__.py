"""Files of nets: safetensors, the state of a net as content, rules as JSON."""
