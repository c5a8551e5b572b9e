from .broker_tools import start

__all__ = ["start"]
