"""Facts only: protocol version, byte layouts, operations, control messages, CUDA status numbers. No behaviour, no I/O."""
