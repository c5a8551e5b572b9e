"""Facts only: protocol version, byte layouts, operations, control messages. No behaviour, no I/O."""
