"""Calls from a stream into the application's C functions."""

from __future__ import annotations

import ctypes

_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_STREAM_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_BLOCK_SIZE = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int)


def call_host_function(function: int, user_data: int) -> None:
    """Call a ``CUhostFn``; ``function`` must be one."""
    _HOST_FUNCTION(function)(user_data)


def call_stream_callback(function: int, stream: int, result: int, user_data: int) -> None:
    """Call a ``CUstreamCallback``; ``function`` must be one."""
    _STREAM_CALLBACK(function)(stream, result, user_data)


def call_block_size(function: int, block_size: int) -> int:
    """Call a ``CUoccupancyB2DSize``; ``function`` must be one."""
    return int(_BLOCK_SIZE(function)(block_size))
