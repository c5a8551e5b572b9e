"""How a library's calls are redirected: import hook, capsule tables, plugins."""
