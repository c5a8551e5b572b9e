"""Who computes on a slice: policies and the lease as a state machine, without I/O and without a clock; and a
simulator."""
