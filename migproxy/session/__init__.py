"""The function's side: connecting to the broker, submitting commands, waiting for replies, and the driver API on
top."""
